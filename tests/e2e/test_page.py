"""The page at / in a headless Chromium: what a person does with it, and what it asks for meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serve.http.tokens import TokenFile
from tests.support.chromium import find_chromium
from tests.support.local_service import LocalService
from tests.support.site import Site, clip, count, open_site, text
from tests.support.tiny import write_bundle_of
from yt8m_ray.data.format.example import encode_sequence_example
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.inference.predictor import Predictor


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium: install the Debian package chromium to test the page in a browser")
    folder = tmp_path_factory.mktemp("page")
    bundle = write_bundle_of(folder / "bundle", data={"max_frames": 60})
    with open_site(program, LocalService(Predictor.from_path(bundle)), folder) as site:
        yield site


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train0001.tfrecord"
    write_records(str(path), [clip("the-first", 23), clip("the-second", 4), clip("the-third", 60)])
    return path


def test_an_example_gets_bars_a_timeline_and_its_answer_names_the_model(site: Site) -> None:
    page = site.open()
    page.wait_for("document.querySelectorAll('#examples .chip').length === 3")
    page.evaluate("document.querySelectorAll('#examples .chip')[2].click()")
    page.wait_for("document.querySelectorAll('.bar-row').length === 20")
    assert count(page, "#heat .cell") == 20 * 60 // 5
    version = site.service.host.current.version
    assert version in text(page, "#answer-facts") and "made-up-3" in text(page, "#answer-facts")
    scores = page.evaluate("[...document.querySelectorAll('.bar-score')].map((each) => Number(each.innerText))")
    assert scores == sorted(scores, reverse=True)
    widths = page.evaluate(
        "[...document.querySelectorAll('.bar')].map(bar => bar.firstChild.offsetWidth / bar.offsetWidth)"
    )
    assert widths == pytest.approx(scores, abs=0.01)
    site.assert_quiet()


def test_the_labels_that_a_record_carries_are_marked(site: Site, tmp_path: Path) -> None:
    frames = {key: np.full((9, size), 7, np.uint8) for key, size in (("rgb", 8), ("audio", 4))}
    path = tmp_path / "labelled.tfrecord"
    write_records(str(path), [encode_sequence_example({"id": [b"v"], "labels": np.arange(30)}, frames)])
    page = site.open()

    page.choose_file("input[type=file]", path)

    page.wait_for("document.querySelectorAll('.bar-row').length === 20")
    assert count(page, ".bar-known") == 20  # of 30 classes, all of which the record names
    site.assert_quiet()


def test_the_card_says_what_the_bundle_says(site: Site) -> None:
    page = site.open()
    page.wait_for("document.querySelectorAll('#card-body tbody tr').length === 2")
    card = text(page, "#card-body")
    document = site.service.host.current.predictor.document
    assert document is not None
    assert f"{document.quality.gap_after:.4f} as served" in card
    assert "bundle of 2 models" in card and "Apache-2.0" in card and "int8" in card
    site.assert_quiet()


def test_a_dropped_shard_offers_its_records(site: Site, shard: Path) -> None:
    page = site.open()
    page.drop_file("#drop", shard)
    page.wait_for("document.querySelectorAll('#records .chip').length === 3")
    page.wait_for("document.querySelector('#answer-facts').innerText.includes('the-first')")
    assert count(page, "#heat .cell") == 20 * 5
    page.evaluate("document.querySelectorAll('#records .chip')[1].focus()")
    page.press("Enter", 13)
    page.wait_for("document.querySelector('#answer-facts').innerText.includes('the-second')")
    assert count(page, "#timeline[hidden]") == 1  # 4 seconds have no course
    site.assert_quiet()


def test_arrow_keys_read_the_timeline_out(site: Site, shard: Path) -> None:
    page = site.open()
    page.drop_file("#drop", shard)
    page.wait_for("document.querySelectorAll('#heat .cell').length")
    page.evaluate("document.querySelector('#heat').focus()")
    page.press("Home", 36)
    assert ", 0:00–0:05: " in text(page, "#readout")
    page.press("End", 35)
    assert ", 0:20–0:23: " in text(page, "#readout")


@pytest.mark.parametrize("is_framed", [True, False], ids=["a shard", "one record"])
def test_a_file_can_be_chosen(site: Site, shard: Path, tmp_path: Path, is_framed: bool) -> None:
    page = site.open()
    single = tmp_path / "record.pb"
    single.write_bytes(clip("alone", 12))
    page.choose_file("#file", shard if is_framed else single)
    page.wait_for(
        f"document.querySelector('#answer-facts').innerText.includes('{'the-first' if is_framed else 'alone'}')"
    )
    assert count(page, "#records .chip") == (3 if is_framed else 0)
    site.assert_quiet()


def test_a_shard_packed_by_gzip_is_unpacked_in_the_browser(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "packed.tfrecord.gz"
    write_records(str(path), [clip(f"v{index}", 5 + index) for index in range(30)], compression="gzip")
    page = site.open()
    page.drop_file("#drop", path)
    page.wait_for("document.querySelector('#answer-facts').innerText.includes('v0')")
    assert count(page, "#records .chip") == 24 and "the first 24 records" in text(page, "#records-title")


@pytest.mark.parametrize(
    ("content", "message", "refused"),
    [
        (b"not a record", "not a SequenceExample or Example", 1),
        (b"", "the file is empty", 0),
        (clip("too-long", 61), "expected 1 to 60 frames, found 61", 1),
    ],
    ids=["text", "empty", "too long"],
)
def test_what_is_wrong_is_said(site: Site, tmp_path: Path, content: bytes, message: str, refused: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    page = site.open()
    page.drop_file("#drop", path)
    page.wait_for("!document.querySelector('#error').hidden")
    assert message in text(page, "#error-text")
    assert count(page, "#result:not([hidden])") == 0
    site.assert_quiet(refused=refused)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-9], "record 2 at byte"),
        (lambda data: data[:40] + b"?" + data[41:], "record 0 at byte 0: its checksum is wrong"),
    ],
    ids=["cut", "changed"],
)
def test_a_damaged_shard_names_the_record(
    site: Site, shard: Path, damage: Callable[[bytes], bytes], message: str
) -> None:
    shard.write_bytes(damage(shard.read_bytes()))
    page = site.open()
    page.drop_file("#drop", shard)
    page.wait_for("!document.querySelector('#error').hidden")
    assert f"train0001.tfrecord: {message}" in text(page, "#error-text")
    site.assert_quiet()


def test_a_token_is_asked_for_and_kept_in_the_tab_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens").write_text("a-token\n")
    monkeypatch.setattr(site.service, "client_tokens", TokenFile(str(tmp_path / "tokens")))
    page = site.open()
    page.wait_for("document.activeElement.id === 'token'")
    assert "expected Bearer and a token of this service" in text(page, "#error-text")
    page.send("Input.insertText", text="a-token")
    page.press("Enter", 13)
    page.wait_for(
        "document.querySelectorAll('#examples .chip').length === 3 && document.querySelector('#error').hidden"
    )
    page.evaluate("document.querySelector('#examples .chip').click()")
    page.wait_for("document.querySelectorAll('.bar-row').length === 20")
    assert page.evaluate("[localStorage.length, document.cookie, Object.values(sessionStorage)]") == [
        0,
        "",
        ["a-token"],
    ]
    page.evaluate("sessionStorage.clear()")
    site.assert_quiet(refused=1)


def test_nothing_is_wider_than_a_phone(site: Site, shard: Path) -> None:
    page = site.open()
    page.emulate(width=360)
    page.drop_file("#drop", shard)
    page.wait_for("document.querySelectorAll('.bar-row').length === 20")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
