"""From a section of a document to an object, and what is refused on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

from yt8m_ray.registry import ComponentConfig, Config, Registry


class SquareConfig(ComponentConfig):
    name: Literal["square"] = "square"
    side: int = pydantic.Field(default=1, ge=1)


class Square:
    def __init__(self, config: SquareConfig, *, unit: str = "m") -> None:
        self.side = config.side
        self.unit = unit


def shapes() -> Registry[Any]:
    registry: Registry[Any] = Registry("shape")
    registry.register("square", SquareConfig)(Square)
    return registry


def test_a_section_becomes_an_object_with_its_context() -> None:
    square = shapes().build({"name": "square", "side": 3}, unit="km")
    assert (square.side, square.unit) == (3, "km")


def test_a_typed_config_is_built_as_it_is() -> None:
    assert shapes().build(SquareConfig(side=4)).side == 4


def test_an_unknown_name_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="unknown shape 'circle'; valid: square"):
        shapes().build({"name": "circle"})


@pytest.mark.parametrize("section", [{"side": 3}, {"name": 7}, "square", None, ["square"]])
def test_a_section_without_a_name_is_refused_with_the_valid_ones(section: Any) -> None:
    with pytest.raises(ValueError, match="a shape needs a name, one of square"):
        shapes().parse(section)


@pytest.mark.parametrize(("field", "value"), [("sides", 4), ("side", 0), ("side", "wide")])
def test_an_unknown_field_or_a_value_out_of_range_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        shapes().build({"name": "square", field: value})


def test_a_name_is_registered_once() -> None:
    registry = shapes()
    with pytest.raises(ValueError, match="shape 'square' is registered twice"):
        registry.register("square", SquareConfig)(Square)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        SquareConfig().side = 5


def test_a_config_refuses_numbers_that_are_none() -> None:
    class Rate(Config):
        rate: float

    with pytest.raises(pydantic.ValidationError, match="finite"):
        Rate(rate=float("nan"))


def test_an_installed_package_adds_components_through_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry: Registry[Any] = Registry("shape", entry_point_group="yt8m_ray_test.shapes")
    metadata = tmp_path / "round_shapes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: round-shapes\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[yt8m_ray_test.shapes]\nround = round_shapes\n")
    (tmp_path / "round_shapes.py").write_text("imported = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.names()
    import round_shapes

    assert round_shapes.imported
