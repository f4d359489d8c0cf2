"""The two rules of the house, layers and doors, and the size limits, checked on the source of every module.

LAYERS and DOORS are the rules. A new file inside a package of the table needs no entry; a new package or top-level
module does.
"""

from __future__ import annotations

import ast
import collections
import functools
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from yt8m_ray.cli.verbs import NAMES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "yt8m_ray"

# Facts first. A module imports from its own package and from the rows above it in this table, never from a sibling
# in its row and never from a row below.
LAYERS = (
    ("schema", "registry", "compiled", "errors", "local_files", "json_document", "local_cluster", "wording"),
    ("topk", "cluster", "reporting", "components"),
    ("data", "models", "losses", "metrics"),
    ("config", "evaluation"),
    ("artifacts",),
    ("tracking", "interop"),
    ("inference",),
    ("training",),  # a teacher may be a bundle
    ("tuning",),
    ("cli",),
    ("api",),
)

# The same inside a folder: a sub-package or module imports from its own and from the rows above it. OTHERS stands for
# the modules of the folder that no row names.
OTHERS = "*"
SUB_LAYERS = {
    "yt8m_ray/data": (
        ("errors", "buffer_pool", "video_keys", "progress", "samples"),
        ("storage",),
        ("format",),
        ("pipeline",),
        ("labels",),
        ("inspection", "synthetic", "download"),
    ),
    "yt8m_ray/inference": (
        ("locate",),
        ("evaluation_config", "predictions", "quantization"),
        ("bundle",),
        ("predictor",),
        ("batch", "mlflow_model"),
        ("ensemble",),
    ),
    "yt8m_ray/training": (
        ("steps",),
        ("run",),
        ("driver",),
        ("lr_range_test", "cross_validation", "weight_averaging"),
    ),
    "yt8m_ray/tuning": ((OTHERS,), ("report",), ("search",)),
    "serve": (
        ("errors", "settings", "operations", "haproxy"),
        ("model",),
        ("http", "release"),
        ("deployments",),
        ("app", "keep_deployed"),
        ("command",),
    ),
    "serve/http": ((OTHERS,), ("predict", "open_inference", "site"), ("v1_protocol",), ("api",)),
}
FOLDERS = {PACKAGE: LAYERS, **SUB_LAYERS}

# Outside the package, strangers to each other; nothing in the package imports them.
OUTER = ("jobs", "serve", "tests", "benchmarks")

# The only files, or folders, that may import a framework. The longest framework name that fits an import decides.
DOORS = {
    # What Ray Train cannot do: nodes that come, go and are about to go; a message to running workers.
    "ray": (
        "yt8m_ray/api/runs.py",
        "yt8m_ray/cli/command.py",
        "yt8m_ray/cli/demo.py",
        "yt8m_ray/cli/ray_cluster.py",
        "yt8m_ray/cluster.py",
        "yt8m_ray/training/driver/nodes.py",
        "yt8m_ray/training/driver/coordinator.py",
    ),
    "ray.data": ("yt8m_ray/data/pipeline/ray_dataset.py",),
    "ray.exceptions": (
        "yt8m_ray/cli/ray_cluster.py",
        "yt8m_ray/cluster.py",
        "yt8m_ray/training/driver/failures.py",
        "serve/deployments.py",
    ),
    "ray.train": ("yt8m_ray/training/driver/trainer.py", "yt8m_ray/training/driver/process_group.py"),
    "ray.tune": ("yt8m_ray/tuning/",),
    "ray.serve": ("serve/",),
    "fastapi": ("serve/",),
    "fastapi_offline": ("serve/",),
    "starlette": ("serve/",),
    "uvicorn": ("serve/",),
    "prometheus_client": ("serve/",),
    "yaml": ("yt8m_ray/config/yaml_text.py",),
    # One folder for runs and registered models, one for what a bundle's model is, which MLflow loads elsewhere.
    "mlflow": ("yt8m_ray/tracking/", "yt8m_ray/inference/mlflow_model/"),
    "tensorflow": ("yt8m_ray/interop/",),
    "optuna": ("yt8m_ray/tuning/",),
    "optuna_dashboard": ("yt8m_ray/tuning/dashboard.py",),
}

# Reading shards must not cost a read task the second that torch takes to import, nor tie it to Ray.
READ_MODULES = ("format.tfrecord", "storage.filesystem", "format.example", "format.features", "labels.vocabulary")

MAX_FILE_LINES = 400
MAX_MODULES = 15
NO_MODULE_LIMIT = (f"{PACKAGE}/models", f"{PACKAGE}/cli", "benchmarks")
"""One file a family of models, and one a command."""
MAX_VERB_LINES = 40
# The play in which all verbs appear.
LONG_VERB = "demo"


@dataclass(frozen=True)
class Import:
    """One imported name: `from yt8m_ray.data import tfrecord` at line 3 has target `yt8m_ray.data.format.tfrecord`."""

    path: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.target}"


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports_of(source: str, path: str) -> Iterator[Import]:
    """Yields every import of a file, wherever it stands: in a function, under TYPE_CHECKING or at the top."""
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield Import(path, node.lineno, f"{node.module}.{alias.name}")


def unit_in(folder: str, dotted: str) -> str | None:
    """Returns the module or sub-package of a folder that a dotted name lies in; None where it lies in none."""
    prefix = folder.replace("/", ".") + "."
    unit = dotted.removeprefix(prefix).split(".")[0]
    return unit if dotted.startswith(prefix) and not unit.startswith("__") else None


def row_of(folder: str, unit: str) -> int | None:
    """Returns the row of a unit in its folder's table, counted from 1."""
    rows = [row for row, units in enumerate(FOLDERS[folder], start=1) if unit in units]
    others = [row for row, units in enumerate(FOLDERS[folder], start=1) if OTHERS in units]
    return next(iter(rows + others), None)


def layering_fault(found: Import) -> str | None:
    """Returns what is wrong with an import, or None."""
    importer_name = found.path.removesuffix(".py").replace("/", ".")
    top = found.target.split(".")[0]
    if importer_name.startswith(f"{PACKAGE}.") and top in OUTER:
        return f"{found}: the package knows nothing of {top}/"
    for folder in FOLDERS:
        importer, imported = unit_in(folder, importer_name), unit_in(folder, found.target)
        if imported is None or imported == importer or not found.path.startswith(f"{folder}/"):
            continue
        # The command, and the public names, which are imported when they are used.
        if found.path in (f"{folder}/__main__.py", f"{PACKAGE}/__init__.py"):
            continue
        if importer is None:
            return f"{found}: {folder}/__init__.py imports nothing of its package"
        importer_row, imported_row = row_of(folder, importer), row_of(folder, imported)
        for unit, row in ((importer, importer_row), (imported, imported_row)):
            if row is None:
                return f"{found}: {unit} has no row; add it to the table of {folder}/ in {relative(Path(__file__))}"
        assert importer_row is not None and imported_row is not None
        if OTHERS in FOLDERS[folder][importer_row - 1] and imported_row == importer_row:
            continue
        if imported_row == importer_row:
            return f"{found}: {importer} and {imported} are siblings in row {importer_row} and do not know one another"
        if imported_row > importer_row:
            return f"{found}: {imported} (row {imported_row}) lies above {importer} (row {importer_row})"
    return None


def door_fault(found: Import) -> str | None:
    """Returns what is wrong with an import of a framework, or None."""
    frameworks = [name for name in DOORS if f"{found.target}.".startswith(f"{name}.")]
    if not frameworks:
        return None
    framework = max(frameworks, key=len)
    # Who may import a part of Ray may import its core as well.
    doors = [door for name, doors in DOORS.items() if f"{name}.".startswith(f"{framework}.") for door in doors]
    if framework != "ray":
        doors = list(DOORS[framework])
    if found.path.startswith(tuple(doors)):
        return None
    return f"{found}: only {', '.join(doors)} may import {framework}"


def code_lines(source: str) -> int:
    """Returns the number of lines that hold code: blank lines, comments and docstrings do not count."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            docstrings.update(range(node.lineno, node.end_lineno + 1))
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_unit_of_a_folder_has_a_row_and_every_row_its_units(folder: str) -> None:
    units = {path.stem if path.is_file() else path.name for path in (ROOT / folder).iterdir() if is_unit(path)}
    named = {unit for row in FOLDERS[folder] for unit in row} - {OTHERS}

    assert [unit for unit in sorted(units) if row_of(folder, unit) is None] == []
    assert sorted(named - units) == []


def is_unit(path: Path) -> bool:
    return not path.name.startswith("__") and (path.suffix == ".py" or any(path.rglob("*.py")))


def test_modules_import_only_from_their_own_package_and_from_lower_rows() -> None:
    files = source_files(PACKAGE, "serve")
    faults = [layering_fault(found) for path in files for found in imports_of(path.read_text(), relative(path))]

    assert not list(filter(None, faults)), "\n" + "\n".join(filter(None, faults))


def test_no_folder_has_more_modules_than_the_limit() -> None:
    modules = [path for path in source_files(PACKAGE, "serve", "benchmarks") if path.stem != "__init__"]
    counts = collections.Counter(relative(path.parent) for path in modules)

    assert {name: n for name, n in counts.items() if n > MAX_MODULES and name not in NO_MODULE_LIMIT} == {}


def test_a_framework_is_imported_only_by_its_door() -> None:
    files = source_files(PACKAGE, "jobs", "serve")
    faults = [door_fault(found) for path in files for found in imports_of(path.read_text(), relative(path))]

    assert not list(filter(None, faults)), "\n" + "\n".join(filter(None, faults))


def test_jobs_and_serve_are_strangers_to_each_other() -> None:
    for folder, stranger in (("jobs", "serve"), ("serve", "jobs")):
        for path in source_files(folder):
            for found in imports_of(path.read_text(), relative(path)):
                assert found.target.split(".")[0] not in (stranger, "tests"), f"{found}: {folder}/ does not know it"


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("source", "path", "fault"),
    [
        ("from yt8m_ray import topk", "yt8m_ray/schema.py", "topk (row 2) lies above schema (row 1)"),
        ("import yt8m_ray.models.base", "yt8m_ray/data/pipeline/batches.py", "data and models are siblings in row 3"),
        ("if TYPE_CHECKING:\n    from yt8m_ray.training import loop", "yt8m_ray/evaluation.py", "lies above"),
        ("def f():\n    import jobs.train", "yt8m_ray/tracking/runs.py", "knows nothing of jobs/"),
        ("from yt8m_ray.helpers import f", "yt8m_ray/tracking/runs.py", "helpers has no row; add it to the table of"),
        (
            "from yt8m_ray.data import labels",
            "yt8m_ray/data/format/example.py",
            "labels (row 5) lies above format (row 3)",
        ),
        ("from serve.app import build", "serve/model/card.py", "app (row 5) lies above model (row 2)"),
    ],
)
def test_the_layer_check_sees_a_forbidden_import(source: str, path: str, fault: str) -> None:
    (found,) = imports_of(source, path)

    assert fault in (layering_fault(found) or "")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import ray.data", "yt8m_ray/training/driver/trainer.py"),
        ("from ray import train", "yt8m_ray/data/pipeline/ray_dataset.py"),
        ("from ray import serve", "yt8m_ray/cli/train.py"),
        ("import ray", "yt8m_ray/evaluation.py"),
        ("from yaml import safe_load", "yt8m_ray/cli/train.py"),
        ("import tensorflow as tf", "yt8m_ray/data/format/example.py"),
    ],
)
def test_the_door_check_sees_a_forbidden_import(source: str, path: str) -> None:
    (found,) = imports_of(source, path)

    assert "may import" in (door_fault(found) or "")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import ray", "yt8m_ray/data/pipeline/ray_dataset.py"),
        ("import ray", "yt8m_ray/cli/ray_cluster.py"),
        ("from ray import serve", "serve/app.py"),
        ("from ray.train.torch import TorchTrainer", "yt8m_ray/training/driver/trainer.py"),
        ("import rayon", "yt8m_ray/schema.py"),
    ],
)
def test_a_door_may_import_its_framework(source: str, path: str) -> None:
    (found,) = imports_of(source, path)

    assert door_fault(found) is None


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in source_files(PACKAGE, *OUTER)}

    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_a_verb_is_at_most_forty_lines_of_code() -> None:
    names = [name.replace("-", "_") for name in NAMES]
    files = {name: ROOT / PACKAGE / "cli" / f"{name}.py" for name in names if name != LONG_VERB}
    lengths = {name: code_lines(path.read_text()) for name, path in files.items() if path.is_file()}

    too_long = {name: n for name, n in lengths.items() if n > MAX_VERB_LINES}

    assert too_long == {}, "a verb parses, loads, connects to Ray, makes one call and prints where the result is"


def test_every_verb_can_be_submitted_as_a_job() -> None:
    names = {name.replace("-", "_") for name in NAMES} - {"serve", "configs"}

    assert {path.stem for path in source_files("jobs")} == names
    assert {code_lines(path.read_text()) for path in source_files("jobs")} == {3}


def test_comments_docstrings_and_blank_lines_are_not_code() -> None:
    assert code_lines('"""Doc\n\nstring."""\n\n# why\nx = (\n    1\n)  # unit\ny = """two\nlines"""\n') == 5


def test_there_are_no_init_files_among_the_tests() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []  # tests/serve/__init__.py would shadow serve/


def test_reading_shards_imports_neither_torch_nor_ray() -> None:
    modules = [f"{PACKAGE}.data.{name}" for name in READ_MODULES]
    code = f"import sys, {', '.join(modules)}; print(*sorted({{'torch', 'ray', 'mlflow'}} & set(sys.modules)))"

    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stdout + result.stderr


def test_unit_tests_do_not_reach_ray() -> None:
    for path in source_files("tests/unit"):
        reached = reached_modules(path)
        assert "ray" not in reached, (
            f"{relative(path)} reaches ray: {' > '.join(reached['ray'])}; see tests/integration"
        )


@functools.cache
def targets_of(path: Path) -> tuple[str, ...]:
    return tuple(found.target for found in imports_of(path.read_text(), relative(path)))


def reached_modules(start: Path) -> dict[str, list[str]]:
    """Returns every module that importing a file leads to, with the chain of modules of this repository before it."""
    reached: dict[str, list[str]] = {}
    waiting = [(start, [relative(start)])]
    while waiting:
        path, chain = waiting.pop()
        for target in targets_of(path):
            parts = target.split(".")
            for end in range(len(parts), 0, -1):
                name, file = ".".join(parts[:end]), ROOT.joinpath(*parts[:end]).with_suffix(".py")
                if name not in reached:
                    reached[name] = [*chain, name]
                    if file.is_file():
                        waiting.append((file, reached[name]))
    return reached
