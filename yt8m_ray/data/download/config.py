"""What to download: a partition of YouTube-8M, and where its files are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

import pydantic
from pydantic import Field

from yt8m_ray.registry import Config

# Names of files in a folder, where `.download.lock` and others with a leading dot are taken.
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class DownloadConfig(Config):
    """Which shards to fetch, from where, and how patiently.

    The layout is that of YouTube-8M's own download.py: the plan of the partition 2/frame/train is
    http://data.yt8m.org/2/download_plans/frame_train.json, its files are http://us.data.yt8m.org/2/frame/train/NAME,
    and likewise for the mirrors eu and asia.
    """

    partition: str = Field(description="version/level/split, such as 2/frame/train")
    shard: str = Field(default="1,1", description="i,n: the i-th of n parts of the partition, such as 1,100")
    mirror: Literal["us", "eu", "asia"] = Field(default="us", description="us, eu or asia")
    num_connections: int = Field(default=4, ge=1, le=64, description="files that are fetched at once")
    base_url: str = Field(
        default="http://{host}",
        description="another root; {host} stands for data.yt8m.org (plans) and us.data.yt8m.org (files)",
    )
    verify: bool = Field(default=False, description="true reads the files again that are there and compares their md5")
    num_attempts: int = Field(default=5, ge=1, description="tries of a request, or of a file, that bring nothing new")
    backoff_s: float = Field(default=1.0, ge=0, description="pause after a second failed try; doubles with each")
    timeout_s: float = Field(default=60.0, gt=0, description="how long a server may be silent")

    @pydantic.field_validator("partition")
    @classmethod
    def _check_partition(cls, partition: str) -> str:
        parts = partition.split("/")
        if len(parts) != 3 or not all(map(FILE_NAME.fullmatch, parts)):
            raise ValueError(f"expected version/level/split such as 2/frame/train, found {partition!r}")
        return partition

    @pydantic.field_validator("base_url")
    @classmethod
    def _check_base_url(cls, base_url: str) -> str:
        if not re.match(r"https?://[^/]", base_url):
            raise ValueError(f"expected http://... or https://..., found {base_url!r}")
        return base_url

    @pydantic.field_validator("shard")
    @classmethod
    def _check_shard(cls, shard: str) -> str:
        index, num_parts = _parse_shard(shard)
        if not 1 <= index <= num_parts:
            raise ValueError(f"expected i,n with 1 <= i <= n, found {shard!r}")
        return shard

    @property
    def plan_url(self) -> str:
        """Where the partition's files are listed."""
        version, level, split = self.partition.split("/")
        return f"{self._root('data.yt8m.org')}/{version}/download_plans/{level}_{split}.json"

    def file_url(self, name: str) -> str:
        """Returns where a file of the partition is."""
        return f"{self._root(f'{self.mirror}.data.yt8m.org')}/{self.partition}/{name}"

    def _root(self, host: str) -> str:
        return self.base_url.replace("{host}", host).rstrip("/")


def select(names: Iterable[str], shard: str) -> list[str]:
    """Returns the sorted names of the i-th of n parts."""
    # As YouTube-8M's own download.py: those whose own md5, as a number, is i - 1 modulo n.
    index, num_parts = _parse_shard(shard)
    return sorted(
        name
        for name in names
        if int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16) % num_parts == index - 1
    )


def _parse_shard(shard: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]+),([0-9]+)", shard)
    if not found:
        raise ValueError(f"expected i,n such as 1,100, found {shard!r}")
    return int(found[1]), int(found[2])
