"""Names, ids and cards that were made to harm: the page shows them as text, and keeps its shape."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.settings import Limits, ServeArgs
from tests.support.chromium import find_chromium
from tests.support.local_service import LocalService
from tests.support.site import Site, clip, count, open_site, text
from tests.support.tiny import write_bundle_of
from yt8m_ray.data.format.tfrecord import write_records
from yt8m_ray.inference.bundle.document import Attribution, BundleDocument, Licence, Provenance, Quality
from yt8m_ray.inference.predictor import Predictor

RUN = "window.harmed = true"
NAMES = {
    "script": f"<script>{RUN}</script>",
    "image": f'<img src=x onerror="{RUN}">',
    "frame": "<iframe srcdoc='<script>parent.harmed = true</script>'></iframe>",
    "out of an attribute": f'" onmouseover="{RUN}" autofocus onfocus="{RUN}" x="',
    "out of a tag": f"'></title></textarea></style></script><svg onload={RUN}>",
    "link": f"javascript:{RUN}",
    "template": "${window.harmed = true} {{constructor.constructor('window.harmed = true')()}} #{7*7} %s %n",
    "right to left": "\u202egnp.exe\u2066 three",
    "control": "a\u0000b\u0007c\u2028d\u2029e\nf\tg\u200b\ufeff",
    "long": "W" * 10_000,
    "long with spaces": "wide words " * 900,
    "combining": "Z" + "\u0310\u0329" * 500,
    "wide": "\U0001f9d1\u200d\U0001f680" * 300,
}
WIDTHS = (1200, 360)

PLACES = """JSON.stringify(
  [document.querySelector('#answer-facts'), ...document.querySelectorAll('.bar-details')].map(line =>
    [...line.querySelectorAll('bdi, code')]
      .map(part => part.getClientRects()[0]).map(box => [box.top, box.left])))"""
"""Where each part of each line stands that has parts of others: from the top, from the left."""


def hostile_vocabulary(path: Path, num_classes: int) -> Path:
    names = [name.replace("\0", "") for name in NAMES.values()]  # which no CSV holds
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        verticals = ("Vertical1", "Vertical2", "Vertical3")
        writer.writerow(("Index", "TrainVideoCount", "KnowledgeGraphId", "Name", *verticals))
        for index in range(num_classes):
            name = names[index % len(names)]
            writer.writerow((index, 1, f"/m/{name}", name, name, "", ""))
    return path


def hostile_document(document: BundleDocument) -> BundleDocument:
    everything = " ".join(NAMES.values())
    members = [
        member.model_copy(update={"model": {"name": name, "an option": name, name: [name, {name: name}]}})
        for member, name in zip(document.members * len(NAMES), NAMES.values(), strict=False)
    ]
    attributions = tuple(Attribution(part=n, title=n, holder=n, licence=n, source=n) for n in NAMES.values())
    return document.model_copy(
        update={
            "members": members,
            "licence": Licence(weights=everything, attributions=attributions),
            "provenance": Provenance(created=everything, package_version=everything, git_commit=everything),
            "quality": Quality(split=list(NAMES.values()), num_videos=3, gap_before=0.5, gap_after=0.5),
        }
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium: install the Debian package chromium to test the page in a browser")
    folder = tmp_path_factory.mktemp("names")
    predictor = Predictor.from_path(write_bundle_of(folder / "bundle", data={"max_frames": 60}))
    assert predictor.document is not None
    vocabulary = hostile_vocabulary(folder / "names.csv", predictor.spec.num_classes)
    document = hostile_document(predictor.document)
    predictor = dataclasses.replace(predictor, vocabulary_path=str(vocabulary), document=document)
    shard = folder / "examples.tfrecord"
    write_records(str(shard), [clip(name, 20 + index) for index, name in enumerate(NAMES.values())])
    service = LocalService(predictor, Limits(), ServeArgs(examples=str(shard)))
    with open_site(program, service, folder) as site:
        yield site


def assert_harmless(site: Site, width: int) -> None:
    page = site.page
    assert page.evaluate("window.harmed") is None
    assert (
        page.evaluate(
            "document.querySelectorAll('main script, main img, main iframe, main svg, main a[href^=java]').length"
        )
        == 0
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    height = page.evaluate("document.documentElement.scrollHeight")
    assert height < 20_000, f"{height} pixels: a name takes the page"
    site.assert_quiet()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", NAMES)
def test_an_id_of_a_video_is_text_and_keeps_the_shape_of_the_page(
    site: Site, tmp_path: Path, name: str, width: int
) -> None:
    path = tmp_path / "one.tfrecord"
    write_records(str(path), [clip(NAMES[name], 30)])
    page = site.open()
    page.emulate(width=width)
    page.drop_file("#drop", path)
    page.wait_for("document.querySelectorAll('.bar-row').length === 20")
    assert count(page, "#records .chip") == 1
    assert_harmless(site, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_names_of_classes_and_cards_are_text_and_keep_the_shape_of_the_page(site: Site, width: int) -> None:
    page = site.open()
    page.emulate(width=width)
    page.wait_for("document.querySelectorAll('#examples .chip').length === 12")
    page.wait_for(f"document.querySelectorAll('#card-body tbody tr').length === {len(NAMES)}")
    for index in range(12):
        page.evaluate(f"document.querySelectorAll('#examples .chip')[{index}].click()")
        page.wait_for(f"document.querySelectorAll('#examples .chip')[{index}].getAttribute('aria-pressed') === 'true'")
        page.wait_for("!document.querySelector('#result').hidden && !document.querySelector('#status').textContent")
    assert count(page, "#heat .heat-row") == 21
    page.evaluate("document.querySelector('#heat').focus()")
    page.press("Home", 36)
    assert_harmless(site, width)


def test_what_stands_beside_a_name_is_read_in_its_own_direction(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "one.tfrecord"
    write_records(str(path), [clip(NAMES["right to left"], 30)])
    page = site.open()
    page.drop_file("#drop", path)
    page.wait_for("document.querySelectorAll('.bar-row').length === 20")
    # Each part stands to the right of the one before, or further down: a name that turns the line round is before it.
    lines = json.loads(page.evaluate(PLACES))
    assert len(lines) == 21
    for parts in lines:
        assert parts == sorted(parts), parts
    assert "gnp.exe three (0:30" in text(page, "#answer-facts")


def test_the_name_of_a_file_is_text_too(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror='window.harmed = true'>.tfrecord"
    write_records(str(path), [clip("a", 30)])
    page = site.open()
    page.drop_file("#drop", path)
    page.wait_for("document.querySelectorAll('.bar-row').length === 20")
    assert path.name in text(page, "#records-title")
    path.write_bytes(b"no record")
    page.choose_file("#file", path)
    page.wait_for("!document.querySelector('#error').hidden")
    assert page.evaluate("window.harmed") is None


def test_the_page_of_the_interface_shows_the_names_as_text(site: Site) -> None:
    page = site.open("docs")
    page.wait_for("document.querySelectorAll('.opblock').length > 10")
    page.evaluate("document.querySelector('[id$=predict_v1_predict_post] button').click()")
    page.wait_for("document.querySelectorAll('.example').length > 2")
    assert page.evaluate("window.harmed") is None
