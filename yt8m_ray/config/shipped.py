"""The configs that come along: `configs/` of a checkout, and the same folder inside an installed package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from yt8m_ray.errors import ConfigError
from yt8m_ray.wording import nearest

Kind = Literal["train", "tune", "export"]


def shipped_configs(kind: Kind) -> dict[str, Path]:
    """Returns the files of a kind by name, sorted."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    folder = (inside if inside.is_dir() else package.parent / "configs") / kind
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name: str, kind: Kind) -> Path:
    """Returns the path of a file, or of the config of that name that comes along.

    ConfigError if a plain name is neither; a path with a folder or a suffix is returned whether it exists or not.
    """
    path, shipped = Path(name), shipped_configs(kind)
    if path.is_file() or path.suffix or path.name != name:
        return path
    if name not in shipped:
        raise ConfigError(
            f"{name}: neither a file nor the name of a {kind} config that comes along{nearest(name, shipped)}; "
            "`yt8m configs` lists them"
        )
    return shipped[name]


def purpose(path: Path) -> str:
    """Returns the first sentence of a config's header."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return re.split(r"\. |: |; | \(", " ".join(lines))[0].rstrip(".")
