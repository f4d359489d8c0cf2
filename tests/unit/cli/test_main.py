"""The command `yt8m` itself: its list of verbs, its help, slips."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from yt8m_ray.cli.verbs import NAMES
from yt8m_ray.config.shipped import shipped_configs

HEAVY = {"torch", "ray", "mlflow", "numba", "optuna", "pandas", "scipy", "matplotlib"}

HELP_OF_ALL = """
import contextlib, io, json, sys
from yt8m_ray.cli.main import call
texts = {}
for name in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        call([name, "--help"])
    texts[name] = text.getvalue()
print(json.dumps([texts, sorted(set(json.loads(sys.argv[2])) & set(sys.modules))]))
"""


def yt8m(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "yt8m_ray", *arguments], capture_output=True, text=True, cwd=cwd)


def test_the_help_of_every_verb_names_it_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", HELP_OF_ALL, json.dumps(NAMES), json.dumps(sorted(HEAVY))]
    result = subprocess.run(command, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    texts, heavy = json.loads(result.stdout)
    for name, text in texts.items():
        assert text.startswith(f"usage: yt8m {name} ") and f"\nyt8m {name}" in text
    assert heavy == []


def test_yt8m_alone_lists_the_verbs_in_the_order_of_the_work() -> None:
    result = yt8m()

    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ") and line[2].isalpha()]
    assert (result.returncode, listed) == (0, NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "error: unknown verb 'trian'; did you mean train?; `yt8m --help` lists them"),
        (
            ["train", "netvald"],
            "error: netvald: neither a file nor the name of a train config that comes along; did",
        ),
        (["configs", "train/netvald"], "error: train/netvald: no config of that name; did you mean train/netvlad?"),
        (["release", "promote"], "error: expected `release promote NAME`, found promote with nothing else"),
    ],
)
def test_a_slip_is_one_line_and_code_2(arguments: list[str], message: str) -> None:
    result = yt8m(*arguments)

    assert result.returncode == 2
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


def test_verbose_shows_where_an_error_comes_from() -> None:
    result = yt8m("train", "netvald", "--verbose")

    assert "Traceback" in result.stderr and "find_config" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: netvald: ")


def test_a_shipped_config_is_copied_and_never_over_a_file(tmp_path: Path) -> None:
    first = yt8m("configs", "train/moe_video", "--output", "mine.yaml", cwd=tmp_path)
    second = yt8m("configs", "train/moe_video", "--output", "mine.yaml", cwd=tmp_path)

    assert (first.returncode, first.stdout) == (0, "mine.yaml\n")
    assert (tmp_path / "mine.yaml").read_bytes() == shipped_configs("train")["moe_video"].read_bytes()
    assert (second.returncode, second.stderr) == (2, "error: --output: mine.yaml exists already\n")


def test_the_list_of_configs_says_what_each_is_for() -> None:
    lines = yt8m("configs").stdout.splitlines()

    assert "train/moe_video                   Mixture of two experts a class on video-level features" in lines
    assert len(lines) == sum(len(shipped_configs(kind)) for kind in ("train", "tune", "export"))
