"""The base of all settings: checked where they are made, read from YAML files and ``key=value`` overrides."""

from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from refocus_video.errors import ConfigError, did_you_mean, one_line, shortened


class Settings(BaseModel):
    """Base of all settings: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Any, source: str, overridden: tuple[str, ...] = ()) -> Self:
        """Validate a mapping, with one clear line for each thing that is wrong.

        Raises:
            ConfigError: naming ``source``, or the override where the key is one of ``overridden``; the key, what was
                found, and the known keys where the key is unknown.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"{source}: expected a mapping of settings, found {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(cls, item, source, overridden) for item in error.errors())) from None

    @classmethod
    def load(cls, path: Path | None, overrides: tuple[str, ...] = ()) -> Self:
        """Read a YAML file (or start from the defaults) and apply ``key.sub=value`` overrides, values read as YAML."""
        values: Any = {}
        if path is not None:
            if not path.is_file():
                raise ConfigError(f"no configuration file at {path}; give the path of a YAML file")
            try:
                values = read_yaml(path.read_text(encoding="utf-8"), str(path))
            except UnicodeDecodeError as error:
                raise ConfigError(f"{path}: not readable as YAML: {one_line(error)}") from None
        if values is None:
            raise ConfigError(f"{path} holds no settings; the defaults need no file")
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
        for override in overrides:
            _apply(values, override)
        keys = tuple(override.partition("=")[0] for override in overrides)
        return cls.parse(values, str(path) if path else "settings", keys)


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"an override is written key=value, found {override!r}")
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a group of settings")
    values[leaf] = read_yaml(text, f"override {shortened(override)}")


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: the first of the two would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice in one group", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: naming ``source``, if it is none, nested too deep, or has a key twice in one group.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not readable as YAML: {one_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not readable as YAML: groups or lists are nested too deep") from None


SECRET = "holds_a_secret"
"""Type of a validation error about a value that must not be shown."""


def _explain(cls: type[BaseModel], item: Any, source: str, overridden: tuple[str, ...]) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "(whole file)"
    unknown = item["type"] == "extra_forbidden"
    for key in overridden:  # its value stays unsaid, it may be a secret
        if f"{where}.".startswith(f"{key}.") or (unknown and key.startswith(f"{where}.")):
            source = f"override {key}"
    if unknown:
        group: Any = cls
        for part in item["loc"][:-1]:
            if isinstance(part, int):  # an entry of a list of groups
                group = get_args(group)[0]
            else:
                field = getattr(group, "model_fields", {}).get(part)
                group = field.annotation if field is not None else None
                if isinstance(group, UnionType):  # a group that may be left out
                    group = next((kind for kind in get_args(group) if hasattr(kind, "model_fields")), None)
        known = tuple(getattr(group, "model_fields", {}))
        near = did_you_mean(item["loc"][-1], known)
        return f"{source}: unknown setting {where!r}{near}; known ones here: {', '.join(known)}"
    if item["type"] == SECRET:
        return f"{source}: setting {where!r}: {item['msg']}"  # what was found stays unsaid
    return f"{source}: setting {where!r}: {item['msg'].lower()}, found {shortened(item['input'])}"
