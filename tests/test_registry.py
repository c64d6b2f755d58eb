"""Names and import paths of exchangeable parts."""

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from refocus_video import registry
from refocus_video.errors import ConfigError
from refocus_video.registry import Registry

PARTS = Registry("parts", {"join": "os.path:join", "gone": "os.path:no_such_function"})


def test_a_name_gives_what_it_stands_for() -> None:
    import os

    assert PARTS.load("join") is os.path.join
    assert PARTS.load("os.path:split") is os.path.split


def test_installed_packages_add_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    theirs = EntryPoints([EntryPoint("theirs", "os.path:basename", "refocus_video.parts")])
    monkeypatch.setattr(registry, "entry_points", theirs.select)
    assert PARTS.names == ("join", "gone", "theirs")
    assert PARTS.load("theirs") is os.path.basename


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jion", r"no parts called 'jion' \(did you mean 'join'\?\); known: join, gone"),
        ("gone", "'gone' stands for os.path:no_such_function"),
        ("no.such.module:thing", "cannot be imported"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PARTS.load(name)
