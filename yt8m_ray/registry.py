"""Named components and their configs: how a name in a YAML file becomes an object."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import pydantic

# Names that every process imports before it looks a component up, separated by commas.
IMPORTS_VARIABLE = "YT8M_IMPORTS"

# The largest count in a document: beyond any run, and well inside 64 bits.
MOST = 10**15

PositiveInt = Annotated[int, pydantic.Field(gt=0, le=MOST)]
NonNegativeInt = Annotated[int, pydantic.Field(ge=0, le=MOST)]

# The context of a validation that makes each LocalPath absolute.
ABSOLUTE = "absolute"


def _place(path: str, info: pydantic.ValidationInfo) -> str:
    # `sqlite:///` is the one URI that holds a path of this machine.
    scheme, separator, rest = path.rpartition("sqlite:///")
    if info.context != ABSOLUTE or scheme or "://" in rest:
        return path
    return separator + os.path.abspath(rest)


# A path, a glob, or a URI; a relative one is below the folder that its process runs in.
LocalPath = Annotated[str, pydantic.AfterValidator(_place)]


def _import(names: tuple[str, ...], info: pydantic.ValidationInfo) -> tuple[str, ...]:
    import_extensions(names)
    is_absolute = info.context == ABSOLUTE
    return tuple(os.path.abspath(name) if is_absolute and name.endswith(".py") else name for name in names)


# Modules and Python files of a user's own, which are imported when the document is read.
Imports = Annotated[tuple[str, ...], pydantic.AfterValidator(_import)]

T = TypeVar("T")
C = TypeVar("C", bound="ComponentConfig")
Factory = TypeVar("Factory", bound=Callable[..., Any])


def import_extensions(names: Iterable[str]) -> None:
    """Imports modules by name and Python files by path, here and in processes that this one starts.

    ValueError names what is not there, or fails.
    """
    for name in names:
        path = Path(name)
        is_file = path.suffix == ".py"
        if is_file:
            if not path.is_file():
                raise ValueError(f"{name}: there is no such file")
            _extend_path(str(path.absolute().parent))
        try:
            module = importlib.import_module(path.stem if is_file else name)
        except Exception as error:  # anything that a user's own module raises
            raise ValueError(f"{name}: cannot be imported: {type(error).__name__}: {error}") from error
        if is_file and Path(getattr(module, "__file__", None) or "").resolve() != path.resolve():
            raise ValueError(f"{name}: another module has the name {path.stem} already; rename the file")
        _remember(str(path.absolute()) if is_file else name)


def import_of_environment() -> None:
    """Imports what `YT8M_IMPORTS` names, such as `my_models,/path/to/my_losses.py`."""
    import_extensions(name for name in os.environ.get(IMPORTS_VARIABLE, "").split(",") if name)


def _extend_path(folder: str) -> None:
    # By name, so that their classes can be pickled; PYTHONPATH is for the processes that unpickle them.
    if folder not in sys.path:
        sys.path.append(folder)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if folder not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([*paths, folder])


def _remember(name: str) -> None:
    names = [known for known in os.environ.get(IMPORTS_VARIABLE, "").split(",") if known]
    if name not in names:
        os.environ[IMPORTS_VARIABLE] = ",".join([*names, name])


class Config(pydantic.BaseModel):
    """A frozen document section; unknown keys and values out of range are refused when it is built."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

    def check_unused(self, *keys: str, why: str, section: str = "") -> None:
        """Raises ValueError, with `why`, unless keys without an effect have their defaults; `section` precedes them."""
        for key in keys:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{section}{key}: {why}")


class ComponentConfig(Config):
    """The config of a component that a registry builds by name."""

    name: str

    def check_sizes(self, feature_sizes: Sequence[int]) -> None:
        """Raises ValueError where a component with these settings cannot read features of these sizes."""


class Registry(Generic[T]):
    """Components of one kind by name, each with a config type; error messages name the kind ("model").

    A config is parsed without the component: `implementation`, a module, is imported when the first one is built.
    Packages of the entry-point group, and what YT8M_IMPORTS names, add components from outside: they are imported at
    the first look-up.
    """

    def __init__(self, kind: str, *, implementation: str | None = None, entry_point_group: str | None = None) -> None:
        self.kind = kind
        self._implementation = implementation
        self._entry_point_group = entry_point_group
        self._config_types: dict[str, type[ComponentConfig]] = {}
        self._factories: dict[str, Callable[..., T]] = {}

    def config(self, config_type: type[C]) -> type[C]:
        """Registers a config type, as a decorator, under its field `name`; the factory is registered elsewhere."""
        name = config_type.model_fields["name"].default
        self._check_free(name, self._config_types)
        self._config_types[name] = config_type
        return config_type

    def register(self, name: str, config_type: type[ComponentConfig]) -> Callable[[Factory], Factory]:
        """Returns a decorator that registers a factory, called as `factory(config, **context)`."""

        def decorate(factory: Factory) -> Factory:
            self._check_free(name, self._factories)
            if self._config_types.get(name, config_type) is not config_type:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._config_types[name], self._factories[name] = config_type, factory
            return factory

        return decorate

    def names(self) -> list[str]:
        """Returns every registered name, sorted."""
        self._load_entry_points()
        return sorted(self._config_types)

    def config_type(self, name: str) -> type[ComponentConfig]:
        """Returns the config type of `name`; ValueError lists the valid names."""
        self._load_entry_points()
        if name not in self._config_types:
            raise ValueError(f"name: unknown {self.kind} {name!r}; valid: {', '.join(sorted(self._config_types))}")
        return self._config_types[name]

    def parse(self, section: Mapping[str, Any] | ComponentConfig) -> ComponentConfig:
        """Returns the typed config of a section such as `{"name": "moe"}`; ValueError names a key that is wrong."""
        if isinstance(section, ComponentConfig):
            return section
        name = section.get("name") if isinstance(section, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(f"name: a {self.kind} needs a name, one of {', '.join(self.names())}")
        return self.config_type(name).model_validate(dict(section))

    def validate(self, section: Mapping[str, Any] | ComponentConfig, info: pydantic.ValidationInfo) -> ComponentConfig:
        """Returns the same as `parse`, for a field of a document."""
        config = self.parse(section)
        # The context of the document, such as ABSOLUTE, holds for its sections too.
        return type(config).model_validate(config.model_dump(), context=info.context) if info.context else config

    def build(self, section: Mapping[str, Any] | ComponentConfig, **context: Any) -> T:
        """Returns the component of a section, built with `context` (for models: the sizes of the data)."""
        config = self.parse(section)
        if config.name not in self._factories and self._implementation is not None:
            importlib.import_module(self._implementation)
        if config.name not in self._factories:
            raise ValueError(f"{self.kind} {config.name!r}: its config is registered, but nothing that builds it")
        return self._factories[config.name](config, **context)

    def _check_free(self, name: str, registered: Mapping[str, object]) -> None:
        if name in registered:
            raise ValueError(f"{self.kind} {name!r} is registered twice")

    def _load_entry_points(self) -> None:
        # Cleared before the import, whose modules may look up names themselves.
        group, self._entry_point_group = self._entry_point_group, None
        if group is not None:
            import_of_environment()
        if group is not None:
            for entry_point in importlib.metadata.entry_points(group=group):
                entry_point.load()


def first_fault(error: pydantic.ValidationError) -> str:
    """Returns the first fault in a document with its dotted key."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
