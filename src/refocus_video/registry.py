"""Names of exchangeable parts, and the import paths behind them: other people's packages and modules are found the same way.

A name is looked up among ours, then among the entry points of installed packages (group ``refocus_video.<kind>``, e.g.
``refocus_video.selectors``); a name with a colon is itself an import path, ``package.module:attribute``. Nothing is imported
before it is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from refocus_video.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Registry:
    """The known parts of one kind."""

    kind: str
    """What they are, in the plural: the last part of the entry-point group."""
    paths: Mapping[str, str]
    """Import path of each name, ``package.module:attribute``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Ours first, then those of installed packages."""
        return tuple(dict.fromkeys((*self.paths, *entry_points(group=self._group).names)))

    def load(self, name: str) -> Any:
        """What ``name`` stands for.

        Raises:
            ConfigError: if nothing has this name, or its import path leads nowhere.
        """
        if name in self.paths:
            return _imported(self.paths[name], name)
        found = entry_points(group=self._group, name=name)
        if found:
            return _imported(next(iter(found)).value, name)
        if ":" in name:
            return _imported(name, name)
        raise ConfigError(
            f"no {self.kind} called {name!r}{did_you_mean(name, self.names)}; known: {', '.join(self.names)}, "
            "or an import path package.module:attribute"
        )

    @property
    def _group(self) -> str:
        return f"refocus_video.{self.kind}"


def _imported(path: str, name: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name!r} stands for {path}, which cannot be imported: {error}") from None
