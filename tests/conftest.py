"""Shared by the tests that need real videos."""

from pathlib import Path

import pytest

from refocus_video.data.haystack.generate import generate


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's stored indexes."""
    monkeypatch.setenv("REFOCUS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def haystack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set: 4 training and 2 validation videos, seed 0. To be read only."""
    folder = tmp_path_factory.mktemp("haystack")
    generate(folder, {"train": 4, "validation": 2}, seed=0, workers=0)
    return folder
