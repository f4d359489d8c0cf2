from __future__ import annotations

from pathlib import Path

import pytest

from yt8m_ray.data.labels.vocabulary import PUBLISHED_PATH, Vocabulary

HEADER = "Index,TrainVideoCount,KnowledgeGraphId,Name,Vertical1,Vertical2,Vertical3\n"


@pytest.fixture(scope="module")
def published() -> Vocabulary:
    return Vocabulary.load()


def test_the_published_vocabulary_has_3862_classes(published: Vocabulary) -> None:
    assert len(published) == 3862


def test_a_class_has_its_published_name_id_and_verticals(published: Vocabulary) -> None:
    assert published.name(59) == "Fish"
    assert published.knowledge_graph_id(59) == "/m/0ch_cf"
    assert published.verticals(59) == ("Business & Industrial", "Pets & Animals", "Science")


def test_a_quoted_name_loses_its_quotes(published: Vocabulary) -> None:
    assert published.name(2533) == 'Toys "R" Us'


def test_56_classes_have_no_name(published: Vocabulary) -> None:
    names = [published.name(class_id) for class_id in range(len(published))]

    assert names.count(None) == 56
    assert "" not in names


def test_counts_are_those_of_the_published_training_set(published: Vocabulary) -> None:
    assert published.train_video_counts[:3].tolist() == [788288, 539945, 415890]
    assert published.train_video_counts.min() == 123


def test_saving_the_published_vocabulary_gives_the_published_bytes(published: Vocabulary, tmp_path: Path) -> None:
    published.save(tmp_path / "saved.csv")

    assert (tmp_path / "saved.csv").read_bytes() == PUBLISHED_PATH.read_bytes()


def test_the_shipped_file_equals_the_published_one(yt8m_data: Path) -> None:
    assert PUBLISHED_PATH.read_bytes() == (yt8m_data / "vocabulary.csv").read_bytes()


def test_fewer_classes_are_the_first_of_the_table() -> None:
    vocabulary = Vocabulary.for_num_classes(2)

    assert len(vocabulary) == 2
    assert [vocabulary.name(0), vocabulary.name(1)] == ["Game", "Video game"]


@pytest.mark.parametrize(
    ("features", "num_classes", "name"),
    [
        (["rgb", "audio"], 3862, "Game"),
        (["mean_rgb"], 48, "Game"),
        (["embedding"], 3862, "Game"),
        (["audio_embedding"], 527, None),
        (["rgb", "embedding"], 48, None),
        (["rgb", "audio"], 4716, None),
    ],
)
def test_the_published_names_are_taken_where_they_can_be_meant(
    features: list[str], num_classes: int, name: str | None
) -> None:
    vocabulary = Vocabulary.meant_by(features, num_classes)

    assert (len(vocabulary), vocabulary.name(0)) == (num_classes, name)


def test_the_classes_of_2017_have_no_names(tmp_path: Path) -> None:
    vocabulary = Vocabulary.for_num_classes(4716)

    assert len(vocabulary) == 4716
    assert vocabulary.name(0) is None and vocabulary.knowledge_graph_id(4715) is None
    assert vocabulary.verticals(0) == ()


def test_a_vocabulary_without_names_survives_saving_and_loading(tmp_path: Path) -> None:
    Vocabulary.for_num_classes(4716).save(tmp_path / "vocabulary.csv")

    loaded = Vocabulary.load(tmp_path / "vocabulary.csv")

    assert len(loaded) == 4716
    assert loaded.name(4715) is None


def test_a_table_of_too_few_classes_is_refused(tmp_path: Path) -> None:
    Vocabulary.for_num_classes(5).save(tmp_path / "few.csv")

    assert len(Vocabulary.load(tmp_path / "few.csv", num_classes=5)) == 5
    with pytest.raises(ValueError, match=r"few\.csv: expected the names of 3862 classes, found 5"):
        Vocabulary.load(tmp_path / "few.csv", num_classes=3862)


@pytest.mark.parametrize("class_id", [-1, 3862])
def test_a_class_id_out_of_range_is_refused(published: Vocabulary, class_id: int) -> None:
    with pytest.raises(IndexError, match=r"0\.\.3861"):
        published.name(class_id)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Index,Name\n0,Game\n", "missing TrainVideoCount, KnowledgeGraphId, Vertical1"),
        (HEADER + "1,5,/m/x,Game,,,\n", "expected class id 0 in data row 0, found '1'"),
        (HEADER + "0,many,/m/x,Game,,,\n", "TrainVideoCount 'many' is not a count"),
        (HEADER + "0,5\n", "expected 7 columns"),
        ("", "missing Index"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        Vocabulary.load(path)


def table(folder: Path, *rows: str) -> Vocabulary:
    path = folder / "table.csv"
    path.write_text(HEADER + "".join(f"{index},0,{row},,,\n" for index, row in enumerate(rows)))
    return Vocabulary.load(path)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (("/m/1,Fish", "/m/2,Car"), None),
        (("/m/1,Fishes", "/m/2,Car"), None),  # one class by its id, whatever it is called
        ((",Fish", "/m/2,"), None),
        ((",", ","), None),  # nothing is known
        (("/m/1,Fish",), None),
        (("/m/1,Fish", "/m/3,Car"), 1),
        (("/m/1,Fish", ",Cart"), 1),
        (("/m/2,Car", "/m/1,Fish"), 0),
    ],
)
def test_two_tables_differ_where_both_know_a_class_and_not_the_same(
    tmp_path: Path, other: tuple[str, ...], expected: int | None
) -> None:
    one, another = table(tmp_path, "/m/1,Fish", "/m/2,Car"), table(tmp_path, *other)

    assert one.first_difference(another) == another.first_difference(one) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER.encode() + b"0,0,,\xff,,,\n", r"table\.csv: not a CSV file in UTF-8: .*0xff"),
        (HEADER.encode() + b"0,0,," + b"x" * 200_000 + b",,,\n", r"table\.csv: not a CSV file in UTF-8: field larger"),
        (HEADER.encode() + b"0," + b"9" * 5000 + b",,,,,\n", r"table\.csv: class id 0: TrainVideoCount '9{40}' is not"),
        (HEADER.encode() + "0,²,,,,,\n".encode(), r"table\.csv: class id 0: TrainVideoCount '²' is not"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "table.csv").write_bytes(content)

    with pytest.raises(ValueError, match=message):
        Vocabulary.load(tmp_path / "table.csv")


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"0,7,/m/1,Fish,,,\n")

    assert Vocabulary.load(tmp_path / "table.csv").name(0) == "Fish"
