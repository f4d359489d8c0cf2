"""Errors that a command ends with code 2 for, and the death of Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class YT8MError(Exception):
    """What a user can mend, or at least has to know: all errors of this package that are meant for users."""


class InputError(YT8MError, ValueError):
    """Videos or arguments that a model cannot take."""


class ConfigError(YT8MError, ValueError):
    """A document, an override or an argument that the user has to change; the message names the dotted key."""


class ClusterTooSmallError(YT8MError, ValueError):
    """Workers that the cluster can never place; Ray would wait for ever."""


class ClusterDiedError(YT8MError, RuntimeError):
    """A process of Ray without which no call to the cluster ends."""


class NoShardsError(YT8MError, FileNotFoundError):
    """A path or glob that names no shard."""


@contextlib.contextmanager
def config_errors(key: str) -> Iterator[None]:
    """Raises what is wrong with a file that the config names under `key`, in the `with` block, as a ConfigError."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(f"{key}: {error}") from None


class CarriedError(Exception):
    """An error of ours on its way through Ray Data, which adds advice about retries to the text of any error."""

    # As it was raised; no argument of the exception, as Ray adds its advice to arguments.
    error: BaseException

    @classmethod
    @contextlib.contextmanager
    def carrying(cls) -> Iterator[None]:
        """Wraps what a user can mend, raised in its block; `yt8m_ray.cluster.root_cause` unwraps it."""
        try:
            yield
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            carried = cls()
            carried.error = error
            raise carried from None
