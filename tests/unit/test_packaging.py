"""The package, its pins and the commands that install and check it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
PIN_LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in PIN_LINES)}
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
REQUIREMENTS = [*map(Requirement, PROJECT["dependencies"]), *EXTRAS.pop("dev")]
OTHERS = [requirement for requirements in EXTRAS.values() for requirement in requirements]  # not installed for tests


def test_constraints_are_plain_pins() -> None:
    unusual = [line for line in PIN_LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)]

    assert unusual == []  # no local versions such as +cpu, no paths, no hosts


@pytest.mark.parametrize("requirement", [*REQUIREMENTS, *OTHERS], ids=lambda requirement: requirement.name)
def test_a_requirement_is_pinned_inside_its_range(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))

    assert pin is not None, f"{requirement.name}: add the version that the tests ran with to constraints.txt"
    assert requirement.specifier.contains(pin)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_the_installed_version_is_the_pinned_one(requirement: Requirement) -> None:
    installed = importlib.metadata.version(requirement.name).partition("+")[0]

    assert installed == PINS[canonicalize_name(requirement.name)]


def test_everything_that_the_requirements_bring_along_is_pinned() -> None:
    assert sorted(brought_along(REQUIREMENTS) - set(PINS)) == []


def brought_along(requirements: list[Requirement]) -> set[str]:
    """Returns the names of all packages that requirements lead to on this platform, as the installed ones state it."""
    waiting = [(requirement.name, extra) for requirement in requirements for extra in ("", *requirement.extras)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        name, extra = waiting.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, wanted) for wanted in ("", *needed.extras)]
    return {name for name, _ in seen}


def test_the_wheel_holds_what_is_used_outside_of_the_checkout_and_no_more(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in ("yt8m_ray", "jobs", "serve", "configs", "samples"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "tests").mkdir()
    (source / "tests" / "module.py").touch()
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / file, source)

    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)

    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"yt8m_ray", "jobs", "serve"}
    for expected in (
        "yt8m_ray/data/labels/vocabulary.csv",
        "yt8m_ray/data/pipeline/pca_eigenvalues.npy",
        "yt8m_ray/py.typed",
        "yt8m_ray/models/base.py",
        "yt8m_ray/configs/train/netvlad.yaml",
        "yt8m_ray/samples/video_level/train0.tfrecord",
        "jobs/train.py",
        "serve/config.yaml",
        "serve/page/index.html",
        "serve/haproxy/overloaded.json",
    ):
        assert expected in names
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_make_alone_lists_every_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)

    listed = subprocess.run(["make", "--silent"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert [line.split()[0] for line in listed.splitlines()] == phony.split()


def test_setup_names_the_python_it_needs_in_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); '
        'sys.version = \'3.9.2 (old)\'; exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)

    command = ["make", "--silent", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert result.returncode != 0
    assert "yt8m_ray needs Python 3.11.4 or newer" in result.stderr
    assert "3.9.2" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "venv").exists()


def test_every_target_that_runs_python_makes_the_environment_first() -> None:
    rules = dict(re.findall(r"^([a-z]+):([^#\n]*)", MAKEFILE, re.M))
    recipes = dict(re.findall(r"^([a-z]+):[^\n]*\n((?:\t[^\n]*\n)+)", MAKEFILE, re.M))

    def makes_setup(target: str) -> bool:
        return any(needed == "setup" or makes_setup(needed) for needed in rules.get(target, "").split())

    assert [target for target, recipe in recipes.items() if "$(BIN)" in recipe and not makes_setup(target)] == []


def test_the_check_of_a_change_is_the_test_command() -> None:
    script = ROOT / ".ci" / "run"

    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]

    assert os.access(script, os.X_OK)
    assert lines[0] == "set -euo pipefail"
    assert [line for line in lines if "make" in line] == ["make test </dev/null"]
