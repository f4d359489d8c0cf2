"""Changes of releases that an operator asks for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promote:
    """Makes a model the current one."""

    model: str | None = None  # its name, as the operator gives it; None stands for the canary
    uri: str = ""  # its place, which only the configuration names


@dataclass(frozen=True)
class Canary:
    """Lets a model, or with None the present canary, answer a share of the requests."""

    model: str | None = None
    share: float = 0.0  # 0 to 1; 0 ends the canary
    uri: str = ""


@dataclass(frozen=True)
class Rollback:
    """Ends a canary, or goes back to the model before the current one."""


Change = Promote | Canary | Rollback


class RefusedError(Exception):
    """A change that was not made; `reason` says why in one sentence."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        # Ray raises a subclass of its own whose text is a traceback, and passes attributes on.
        self.reason = reason
