"""Errors that a command ends with code 2 for, and the death of Ray."""

from __future__ import annotations


class ConfigError(ValueError):
    """A document, an override or an argument that the user has to change; the message names the dotted key."""


class ClusterTooSmallError(ValueError):
    """Workers that the cluster can never place; Ray would wait for ever."""


class ClusterDiedError(RuntimeError):
    """A process of Ray without which no call to the cluster ends."""


class NoShardsError(FileNotFoundError):
    """A path or glob that names no shard."""
