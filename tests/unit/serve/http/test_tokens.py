from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from serve.http.tokens import TokenFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def write(path: Path, text: str, *, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_every_line_is_a_token_but_comments_and_empty_ones(path: Path) -> None:
    write(path, "# of the web site\nfirst-token\n\n  second-token  \n#third\n")
    tokens = TokenFile(str(path))
    assert tokens.is_set
    assert [tokens.accepts(f"Bearer {token}") for token in ("first-token", "second-token")] == [True, True]
    assert [tokens.accepts(f"Bearer {token}") for token in ("third", "#third", "", "# of the web site")] == [False] * 4


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "first-token",
        "Basic first-token",
        "Bearer first-toke",
        "Bearer first-tokenn",
        "Bearer é",
    ],
)
def test_anything_else_is_refused(path: Path, authorization: str) -> None:
    write(path, "first-token\n")
    assert not TokenFile(str(path)).accepts(authorization)


def test_the_scheme_may_be_written_in_any_case(path: Path) -> None:
    write(path, "first-token\n")
    assert TokenFile(str(path)).accepts("bEARER first-token")


def test_tokens_change_while_the_service_runs(path: Path) -> None:
    write(path, "old\n")
    tokens = TokenFile(str(path))
    aside = path.with_name("aside")
    write(aside, "new\nold\n")
    os.replace(aside, path)
    assert tokens.accepts("Bearer new") and tokens.accepts("Bearer old")
    write(path, "new\n")
    assert tokens.accepts("Bearer new") and not tokens.accepts("Bearer old")


@pytest.mark.parametrize("text", ["", "# nothing\n", "tökén\n", None])
def test_a_file_that_is_empty_unreadable_or_gone_changes_nothing_and_is_told_once(
    path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    write(path, "old\n")
    tokens = TokenFile(str(path))
    path.unlink()
    if text is not None:
        write(path, text)
    assert [tokens.accepts("Bearer old") for _ in range(3)] == [True] * 3
    assert caplog.text.count("the tokens stay as they were") == 1
    write(path, "new\n")
    assert tokens.accepts("Bearer new") and not tokens.accepts("Bearer old")


def test_a_file_that_others_can_read_is_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(path, "token\n", mode=0o640)
    TokenFile(str(path))
    assert "anybody" not in caplog.text
    path.chmod(0o644)
    TokenFile(str(path))
    assert "anybody on this machine can read the tokens" in caplog.text


def test_no_line_of_the_log_holds_a_token(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write(path, "secret-token\n", mode=0o644)
    TokenFile(str(path)).accepts("Bearer other-secret")
    assert not re.search("secret", caplog.text)


@pytest.mark.parametrize(("text", "message"), [("\n#x\n", "expected one token a line"), ("é\n", "printable ASCII")])
def test_a_service_does_not_start_with_a_file_without_tokens(path: Path, text: str, message: str) -> None:
    write(path, text)
    with pytest.raises(ValueError, match=message):
        TokenFile(str(path))


def test_a_service_does_not_start_without_its_file(path: Path) -> None:
    with pytest.raises(OSError, match="tokens"):
        TokenFile(str(path))


def test_without_a_file_nothing_is_asked_for_and_nothing_is_accepted() -> None:
    tokens = TokenFile(None)
    assert not tokens.is_set and not tokens.accepts("Bearer ")
