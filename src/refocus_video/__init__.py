"""Choose the few frames of a video from which a large multimodal model answers a question best.

::

    import refocus_video

    selection = refocus_video.select("talk.mp4", "What is on the second slide?", frames=8)
    selection.frame_indices, selection.times

Importing this package loads no torch; the first use of a name does.
"""

from typing import TYPE_CHECKING, Any

from refocus_video.errors import (
    BudgetError,
    CheckpointError,
    ConfigError,
    DataError,
    ReferenceModelError,
    RefocusError,
    StoreError,
    VideoError,
)

if TYPE_CHECKING:
    from refocus_video.front import select
    from refocus_video.policy.policy import FramePolicy
    from refocus_video.selectors.learned import FrameSelector
    from refocus_video.selectors.store import IndexStore
    from refocus_video.types import Candidates, Example, Question, Selection, Span

__version__ = "0.1.0"

_LAZY = {
    "Candidates": "types",
    "Example": "types",
    "FramePolicy": "policy.policy",
    "FrameSelector": "selectors.learned",
    "IndexStore": "selectors.store",
    "Question": "types",
    "Selection": "types",
    "Span": "types",
    "select": "front",
}

__all__ = [
    "BudgetError",
    "Candidates",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Example",
    "FramePolicy",
    "FrameSelector",
    "IndexStore",
    "Question",
    "ReferenceModelError",
    "RefocusError",
    "Selection",
    "Span",
    "StoreError",
    "VideoError",
    "select",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
