"""The two rules of the house, layers and doors, and the size limits, checked on the source of every module.

LAYERS and DOORS are the rules. A new file inside a package of the table needs no entry; a new package or top-level
module does.
"""

from __future__ import annotations

import ast
import functools
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "yt8m_ray"

# Facts first. A module imports from its own package and from the rows above it in this table, never from a sibling
# in its row and never from a row below.
LAYERS = (
    ("schema", "registry", "compiled", "local_files", "json_document", "local_cluster"),
    ("topk",),
    ("data", "models", "losses", "metrics"),
    ("config", "interop"),
    ("sealed_folder",),
    ("tensor_file",),
    ("checkpoint", "evaluation", "tracking", "service_client"),
    ("model_registry",),
    ("inference",),
    ("training",),  # a teacher may be a bundle
    ("tuning", "extraction"),
)
ROW_OF = {unit: row for row, units in enumerate(LAYERS) for unit in units}

# Outside the package, strangers to each other; nothing in the package imports them.
OUTER = ("jobs", "serve", "tests")

# The only files, or folders, that may import a framework. The longest framework name that fits an import decides.
DOORS = {
    # What Ray Train cannot do: nodes that come, go and are about to go; a message to running workers.
    "ray": ("jobs/", "yt8m_ray/training/cluster.py", "yt8m_ray/training/mailbox.py"),
    "ray.data": ("yt8m_ray/data/dataset.py",),
    "ray.exceptions": ("jobs/cluster.py", "yt8m_ray/training/failures.py", "serve/deployments.py"),
    "ray.train": ("yt8m_ray/training/trainer.py", "yt8m_ray/training/process_group.py"),
    "ray.tune": ("yt8m_ray/tuning/",),
    "ray.serve": ("serve/",),
    "fastapi": ("serve/",),
    "fastapi_offline": ("serve/",),
    "starlette": ("serve/",),
    "uvicorn": ("serve/",),
    "prometheus_client": ("serve/",),
    "yaml": ("yt8m_ray/config/yaml_text.py",),
    # One for runs, one for models; and what a bundle's model is, which MLflow loads elsewhere.
    "mlflow": ("yt8m_ray/tracking.py", "yt8m_ray/model_registry.py", "yt8m_ray/inference/pyfunc"),
    "tensorflow": ("yt8m_ray/interop/",),
    "optuna": ("yt8m_ray/tuning/",),
    "optuna_dashboard": ("yt8m_ray/tuning/dashboard.py",),
}

# Reading shards must not cost a read task the second that torch takes to import, nor tie it to Ray.
READ_MODULES = ("tfrecord", "storage", "example", "features", "vocabulary")

MAX_FILE_LINES = 400
MAX_VERB_LINES = 40
# Not verbs: what the verbs share, and the play in which they all appear.
NOT_A_VERB = ("cli.py", "cluster.py", "demo.py")


@dataclass(frozen=True)
class Import:
    """One imported name: `from yt8m_ray.data import tfrecord` at line 3 has target `yt8m_ray.data.tfrecord`."""

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


def unit_of(dotted: str) -> str | None:
    """Returns the unit of the layer table that a dotted name of the package lies in, None for the package itself."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == PACKAGE and not parts[1].startswith("__") else None


def layering_fault(found: Import) -> str | None:
    """Returns what is wrong with an import inside the package, or None."""
    importer = unit_of(found.path.removesuffix(".py").replace("/", "."))
    top = found.target.split(".")[0]
    if top in OUTER:
        return f"{found}: the package knows nothing of {top}/"
    imported = unit_of(found.target)
    if top != PACKAGE or imported is None or imported == importer:
        return None
    if importer is None:
        return f"{found}: {PACKAGE}/__init__.py imports nothing of the package"
    for unit in (importer, imported):
        if unit not in ROW_OF:
            return f"{found}: {unit} has no row; add it to LAYERS in tests/unit/test_architecture.py"
    if ROW_OF[imported] == ROW_OF[importer]:
        return (
            f"{found}: {importer} and {imported} are siblings in row {ROW_OF[importer] + 1} and do not know one another"
        )
    if ROW_OF[imported] > ROW_OF[importer]:
        return f"{found}: {imported} (row {ROW_OF[imported] + 1}) lies above {importer} (row {ROW_OF[importer] + 1})"
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


def test_every_unit_of_the_package_has_a_row() -> None:
    units = {path.stem if path.is_file() else path.name for path in (ROOT / PACKAGE).iterdir() if is_unit(path)}

    unknown = sorted(units - set(ROW_OF))

    assert not unknown, f"{', '.join(unknown)}: no row; add it to LAYERS in tests/unit/test_architecture.py"


def is_unit(path: Path) -> bool:
    return not path.name.startswith("__") and (path.suffix == ".py" or any(path.glob("*.py")))


def test_modules_import_only_from_their_own_package_and_from_lower_rows() -> None:
    files = source_files(PACKAGE)
    faults = [layering_fault(found) for path in files for found in imports_of(path.read_text(), relative(path))]

    assert not list(filter(None, faults)), "\n" + "\n".join(filter(None, faults))


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
        ("import yt8m_ray.models.base", "yt8m_ray/data/batch.py", "data and models are siblings in row 3"),
        ("if TYPE_CHECKING:\n    from yt8m_ray.training import loop", "yt8m_ray/evaluation.py", "lies above"),
        ("def f():\n    import jobs.cli", "yt8m_ray/tracking.py", "knows nothing of jobs/"),
        ("from yt8m_ray.helpers import f", "yt8m_ray/tracking.py", "helpers has no row; add it to LAYERS"),
    ],
)
def test_the_layer_check_sees_a_forbidden_import(source: str, path: str, fault: str) -> None:
    (found,) = imports_of(source, path)

    assert fault in (layering_fault(found) or "")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import ray.data", "yt8m_ray/training/trainer.py"),
        ("from ray import train", "yt8m_ray/data/dataset.py"),
        ("from ray import serve", "jobs/train.py"),
        ("import ray", "yt8m_ray/evaluation.py"),
        ("from yaml import safe_load", "jobs/cli.py"),
        ("import tensorflow as tf", "yt8m_ray/data/example.py"),
    ],
)
def test_the_door_check_sees_a_forbidden_import(source: str, path: str) -> None:
    (found,) = imports_of(source, path)

    assert "may import" in (door_fault(found) or "")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("import ray", "yt8m_ray/data/dataset.py"),
        ("import ray", "jobs/train.py"),
        ("from ray import serve", "serve/app.py"),
        ("from ray.train.torch import TorchTrainer", "yt8m_ray/training/trainer.py"),
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
    lengths = {path.name: code_lines(path.read_text()) for path in source_files("jobs")}

    too_long = {name: n for name, n in lengths.items() if n > MAX_VERB_LINES and name not in NOT_A_VERB}

    assert too_long == {}, "a verb parses, loads, calls ray.init, makes one call and prints where the result is"


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
