"""The small trained models that come with the package, by name."""

from pathlib import Path
from typing import Literal

HAYSTACK_TINY = "haystack-tiny"


def locate(name: str, kind: Literal["policy", "reference", "relevance"]) -> str:
    """The folder of a bundled model, or ``name`` itself when it names a folder or a model of the hub."""
    folder = Path(__file__).parent / name / kind
    return str(folder) if name == HAYSTACK_TINY and folder.is_dir() else name
