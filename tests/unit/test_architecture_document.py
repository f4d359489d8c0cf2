"""docs/architecture.md names files that exist, and every package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()


def test_its_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(((?!https?:)[^)#]+)\)", DOCUMENT)

    assert len(targets) > 30
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_the_files_that_it_names_exist() -> None:
    names = set(re.findall(r"`([a-z0-9_/]+\.py)`", DOCUMENT))
    files = [f"/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("[a-z]*/**/*.py")]

    assert len(names) > 20
    assert [name for name in sorted(names) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_its_tree_names_every_folder_of_modules() -> None:
    tree = DOCUMENT.partition("## The tree")[2].split("```")[1]
    folders = {path.parent for package in ("yt8m_ray", "serve") for path in (ROOT / package).rglob("*.py")}

    assert [folder.name for folder in sorted(folders) if f"{folder.name}/" not in tree] == []
