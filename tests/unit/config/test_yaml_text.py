"""YAML of others: plain values, read in no time, or one message with the line and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from yt8m_ray.artifacts.checkpoint_folders import load_config
from yt8m_ray.config.document import load_document, parse_override
from yt8m_ray.config.train import TrainConfig
from yt8m_ray.config.yaml_text import dump_yaml, load_yaml
from yt8m_ray.errors import ConfigError

LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
"""10^8 words in nine lines."""

MALICE = {
    "a tag with another value": ("run: {resume: !!bool foo}", "line 1: run.resume: expected a value of !!bool"),
    "a tag with nothing": ("a: !!int ''", "line 1: a: expected a value of !!int, found ''"),
    "a date": ("a: !!timestamp foo", "line 1: a: expected a plain value, found the tag tag:yaml.org,2002:timestamp"),
    "an object": ("a: !!python/object/apply:os.system [ls]", "line 1: a: expected a plain value, found the tag"),
    "a set": ("a: !!set {b}", "line 1: a: expected a plain value, found the tag"),
    "a tag of its own": ("a: !secret b", "line 1: a: expected a plain value, found the tag !secret"),
    "a list for text": ("a: !!str [b]", "line 1: a: expected a plain value, found the tag"),
    "a huge number": (f"run:\n  seed: {'9' * 5000}", "line 2: run.seed: an integer of 5000 digits"),
    "aliases": (LAUGHS, r"line 2: a1\.0: found the alias \*a0; write out its value"),
    "an alias of itself": ("a: &a [*a]", r"line 1: a\.0: found the alias \*a"),
    "lists in lists": (f"a: {'[' * 5000}{']' * 5000}", r"line 1: a\.0\.0\.0\.0\.0\.0\.0: nested more than 50 deep"),
    "mappings in mappings": ("{a: " * 5000, r"line 1: a\.a\.a\.a\.a\.a\.a\.a: nested more than 50 deep"),
    "lists line by line": ("\n".join(" " * depth + "a:" for depth in range(3000)), "line 52: .*nested more than 50"),
    "keys in keys": ("? " * 5000, "line 1: expected text as a key, found a list or a mapping"),
    "a list as a key": ("? [a]\n: 1", "line 1: expected text as a key"),
    "a key twice": ("run: {name: a}\nrun: {name: b}", "line 2: the key 'run' is there twice, first in line 1"),
    "a number twice": ("1: a\n1.0: b", "line 2: the key '1.0' is there twice, first in line 1"),
    "a truth twice": ("true: a\nTrue: b", "line 2: the key 'True' is there twice, first in line 1"),
    "directives": ("%YAML 1.1\n" + "%TAG !a! x\n" * 10**6 + "--- {}", "line 2: found the directive %TAG; expected a"),
    "a key twice, below": ("run:\n  name: a\n  seed: 1\n  name: b", "line 4: run: the key 'name' is there twice"),
    "more than there can be": (f"a: [{'1,' * 200_000}]", "line 1: a.49997: more than 50000 keys and values"),
    "two documents": ("a: 1\n---\nb: 2", "not YAML in line 2: but found another document"),
    "a control character": ("a: \0", "not YAML: .*control characters are not allowed"),
}


@pytest.mark.parametrize(("text", "message"), MALICE.values(), ids=MALICE)
@pytest.mark.timeout(10)
def test_yaml_that_is_no_plain_document_is_refused_with_line_and_key(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        load_yaml(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("!!str 007", "007"),
        ("!!int 7", 7),
        ("!!float 1e3", 1000.0),
        ("&a [1]", [1]),
        ("!!map {a: 1}", {"a": 1}),
    ],
)
def test_a_tag_that_says_what_a_value_is_anyway_is_read(text: str, value: object) -> None:
    assert load_yaml(text) == value


def test_what_is_written_is_read_again() -> None:
    tree = {
        "a": ["007", "no", "1e3", "2E5", "-1", ".5", "null", "True", "*x", "", "~", "2024-01-01", "ö\n"],
        "b": {"c": [1, 1e-5, None, True, [], {}]},
    }

    assert load_yaml(dump_yaml(tree)) == tree


def test_a_config_and_a_checkpoints_config_are_refused_with_their_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {name: a, name: b}\n")

    for load in (lambda: load_document(tmp_path / "config.yaml", TrainConfig), lambda: load_config(tmp_path)):
        with pytest.raises(ConfigError, match=r"config\.yaml: line 1: run: the key 'name' is there twice"):
            load()


@pytest.mark.parametrize("text", ["!!bool foo", "{a: 1, a: 2}", "9" * 5000, "*.tfrecord", "[" * 5000])
def test_on_the_command_line_what_is_no_plain_yaml_is_text(text: str) -> None:
    assert parse_override(f"key={text}") == ("key", text)


def test_a_config_of_many_faults_or_a_long_one_is_a_message_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("".join(f"k{n}: {'x' * 5000}\n" for n in range(1000)))

    with pytest.raises(ConfigError, match=r"and 98\d more") as error:
        load_document(tmp_path / "config.yaml", TrainConfig)
    assert len(str(error.value)) < 50_000


def test_a_file_that_is_too_large_for_a_config_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.yaml").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, of which the disk has none

    with pytest.raises(ConfigError, match=r"expected at most 16777216 bytes, found 1099511627776"):
        load_document(tmp_path / "config.yaml", TrainConfig)
