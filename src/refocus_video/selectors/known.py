"""Every selector by its name, made from settings: the table that other packages add to.

A selector is any class with ``name`` and ``open`` (``base.py``). What its constructor takes are its settings, checked
by their annotations, except for parameters with one of these names: ``scorer`` and ``policy`` are given by
:class:`Parts`, ``selector`` is another selector by name, and functions are no settings.
"""

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, get_origin, get_type_hints

from pydantic import Field, create_model

from refocus_video.errors import ConfigError, did_you_mean
from refocus_video.registry import Registry
from refocus_video.selectors.base import Selector
from refocus_video.settings import Settings

_HERE: Final = "refocus_video.selectors."

SELECTORS: Final = Registry(
    "selectors",
    {
        name: _HERE + path
        for name, path in {
            "uniform": "uniform:Uniform",
            "uniform-u1": "uniform:UniformU1",
            "uniform-u3": "uniform:UniformU3",
            "uniform-u4": "uniform:UniformU4",
            "stride": "uniform:Stride",
            "random": "random:Random",
            "scenes": "scenes:Scenes",
            "topk": "topk:TopK",
            "topk-gap": "topk:TopKGap",
            "bolt": "bolt:Bolt",
            "aks": "aks:Aks",
            "mdp3": "mdp3:Mdp3",
            "qframe": "gumbel:QFrame",
            "maxinfo": "maxinfo:MaxInfo",
            "adaq": "adaq:AdaQ",
            "slice": "slice:Slice",
            "kfc": "kfc:Kfc",
            "mmr": "mmr:Mmr",
            "mixed": "mixed:Mixed",
            "covered": "mixed:Covered",
            "gate": "mixed:Gate",
            "policy": "learned:Learned",
        }.items()
    },
)

NEEDS: Final = {
    "scorer": "relevance scores; name an image–text model",
    "policy": "a policy; name a folder with one",
    "selector": "another selector; give its name, or its name and settings",
}
KEYS: Final = {"scorer": "relevance", "policy": "policy"}
"""The settings that name these parts on the command line."""
EXAMPLES: Final = {"scorer": "google/siglip2-base-patch16-224", "policy": "runs/train/policy"}
SHARED: Final = ("scorer", "policy", "last_index")
"""The parameters that :class:`Parts` gives."""
PACKAGES: Final = {"scenes": ("scenedetect", "PySceneDetect; run pip install 'refocus-video[scenes]'")}
"""Selectors that run another package, by its module."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What selectors share and settings cannot hold."""

    scorer: Any = None
    """A :class:`~refocus_video.selectors.scored.Scorer`."""
    policy: Any = None
    """A :class:`~refocus_video.policy.policy.FramePolicy`."""
    last_index: Any = None
    """A :class:`~refocus_video.selectors.learned.LastIndex` that the selectors of one policy share."""


class SelectorConfig(Settings):
    """A selector in a configuration."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


def make_selector(name: str, parts: Parts = Parts(), /, **settings: Any) -> Selector:
    """A selector with settings.

    Args:
        name: as in :data:`SELECTORS`, the name of an entry point, or an import path ``package.module:attribute``.
        parts: what it may need besides.
        settings: of this selector; what is left out has its default.

    Raises:
        ConfigError: for an unknown name, an unknown or impossible setting, or a part that is missing.
    """
    factory = SELECTORS.load(name)
    parameters = inspect.signature(factory).parameters
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    given: dict[str, Any] = {}
    for part in SHARED:
        if part in parameters:
            given[part] = getattr(parts, part)
            if given[part] is None and parameters[part].default is inspect.Parameter.empty:
                raise ConfigError(f"selector {name!r} needs {NEEDS[part]}{_spelling(name, part, settings)}")
    if "selector" in parameters:
        given["selector"] = _inner(name, parts, settings)
        settings = {key: value for key, value in settings.items() if key != "selector"}
    fields: dict[str, Any] = {
        key: (hints.get(key, Any), ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for key, parameter in parameters.items()
        if key not in (*NEEDS, *SHARED) and get_origin(hints.get(key)) is not Callable
    }
    checked = create_model(name, __base__=Settings, **fields).parse(settings, f"selector {name!r}")
    made: Selector = factory(**given, **{key: getattr(checked, key) for key in fields})
    return made


def _spelling(name: str, part: str, settings: Collection[str]) -> str:
    """How a part that is missing is given on the command line, and the setting that was perhaps meant to."""
    key = KEYS[part]
    meant = [f"; found {given!r}: did you mean {key!r}?" for given in settings if did_you_mean(given, [key])]
    return f", as in {name},{key}={EXAMPLES[part]}{''.join(meant)}"


def _inner(name: str, parts: Parts, settings: dict[str, Any]) -> Selector:
    inner = settings.get("selector")
    if inner is None:
        raise ConfigError(f"selector {name!r} needs {NEEDS['selector']}")
    values = {"name": inner} if isinstance(inner, str) else inner
    config = SelectorConfig.parse(values, f"selector {name!r}, setting 'selector'")
    return make_selector(config.name, parts, **config.settings)


def makeable(parts: Collection[str]) -> tuple[list[SelectorConfig], dict[str, str]]:
    """Every selector that can be made of some parts alone, and what the others need besides, by name.

    One that is made of another gets the policy; without one, the most relevant frames.

    Args:
        parts: which fields of :class:`Parts` there are.
    """
    inner = next((name for name, part in (("policy", "policy"), ("topk", "scorer")) if part in parts), None)
    made, left_out = [], {}
    for name in SELECTORS.names:
        try:
            needed = _needed(name)
        except ConfigError as error:  # another package's selector that cannot be imported
            left_out[name] = str(error)
            continue
        lacking = needed - set(parts) - ({"selector"} if inner else set())
        package, what = PACKAGES.get(name, (None, ""))
        if lacking:
            left_out[name] = "needs " + " and ".join(NEEDS.get(key, f"the setting {key}") for key in sorted(lacking))
        elif package and find_spec(package) is None:
            left_out[name] = f"needs {what}"
        else:
            made.append(SelectorConfig(name=name, settings={"selector": inner} if "selector" in needed else {}))
    return made, left_out


def _needed(name: str) -> set[str]:
    """What a selector has no default for."""
    parameters = inspect.signature(SELECTORS.load(name)).parameters
    return {key for key, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}


def described() -> list[dict[str, Any]]:
    """Name, first sentence and settings of every selector; what another package adds is named by its own docstring."""
    rows = []
    for name in SELECTORS.names:
        factory = SELECTORS.load(name)
        parameters = [key for key in inspect.signature(factory).parameters if key not in ("name", "last_index")]
        shared = [{"scorer": "relevance"}.get(key, key) for key in parameters]
        meaning = (inspect.getdoc(factory) or "").split("\n")[0]
        rows.append({"name": name, "meaning": meaning, "settings": shared})
    return rows
