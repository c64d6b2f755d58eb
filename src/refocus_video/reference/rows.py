"""Rows: what one pass through the language model reads, from frames and text to token ids, visual tokens and positions.

Dimensions: K frames in a subset · P tokens a frame · C columns of a visual token · T visual tokens of a row · L tokens of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refocus_video.errors import QuestionError
from refocus_video.reference.base import FrameFeatures
from refocus_video.reference.families import Family, kept_tokens
from refocus_video.reference.render import prompt
from refocus_video.reference.rope import mrope_positions
from refocus_video.types import IntArray


@dataclass(frozen=True, slots=True)
class Row:
    """One forward pass through the language model: the frames shown, the text, and what may follow."""

    frames: FrameFeatures
    """Visual tokens of a video's frames, (F, P, C)."""
    times: Sequence[float]
    """Of the frames shown, in seconds, (K,)."""
    text: str
    continuation: tuple[int, ...] = ()
    """Tokens of the answer so far."""
    subset: Tensor | None = None
    """Which of ``frames`` are shown, (K,); all of them if None."""
    source: int = 0
    """Rows with the same number show frames of the same ``frames``."""
    duration: float = 0.0
    """Length of the video in seconds."""

    def shown(self) -> Tensor:
        """Visual tokens of the frames shown, (K, P, C)."""
        if self.subset is not None:
            return self.frames[self.subset]
        assert isinstance(self.frames, Tensor)
        return self.frames


@dataclass(frozen=True, slots=True)
class Ready:
    """A row with its token ids."""

    row: Row
    ids: list[int]
    """With a placeholder for every visual token, (L,)."""
    kept: Tensor | None
    """Which visual tokens stay, (K, P) bool; None for all."""
    visual: int
    """Number of placeholders, T."""


class RowMaker:
    """Turns rows into token ids and positions, for one family and tokenizer."""

    def __init__(
        self, family: Family, tokenizer: Any, *, width: int, trailing: int, grid: tuple[int, int], per_second: float
    ) -> None:
        """Keep what does not change.

        Args:
            family: how frames stand in the text.
            tokenizer: of the model.
            width: of the language model; columns beyond it are not embeddings.
            trailing: visual tokens after the last frame.
            grid: rows and columns of visual tokens in a frame.
            per_second: time positions a second, 0 where time is told otherwise.
        """
        self.family = family
        self.tokenizer = tokenizer
        self.width = width
        self.trailing = trailing
        self.grid = grid
        self.per_second = per_second
        self.placeholder_id: int = tokenizer.convert_tokens_to_ids(family.placeholder)

    def ready(self, rows: Sequence[Row]) -> list[Ready]:
        """Token ids of each row.

        Raises:
            ReferenceModelError: if a text holds the placeholder itself.
        """
        known: dict[Any, tuple[list[int], int]] = {}
        timed = self.family.time_matters
        made = []
        for row in rows:
            kept, counts = self._counts(row)
            key = (row.text, *counts, *((*row.times, row.duration) if timed else ()))
            if key not in known:
                text = prompt(self.family, row.text, row.times, counts, row.duration)
                tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                known[key] = tokens, tokens.count(self.placeholder_id)
            ids, found = known[key]
            # One placeholder too many would take a visual token from the next row, without a trace.
            expected = sum(counts) + self.trailing * bool(counts)
            if found != expected:
                raise QuestionError(
                    f"{found} placeholders {self.family.placeholder} for {expected} visual tokens; "
                    f"the question or an option must not contain it: {row.text!r}"
                )
            made.append(Ready(row, [*ids, *row.continuation], kept, found))
        return made

    def _counts(self, row: Row) -> tuple[Tensor | None, list[int]]:
        """Which visual tokens are kept, and how many that leaves of each frame, (K,)."""
        if self.family.columns != "patches" or not row.times:
            return None, [row.frames.shape[1]] * len(row.times)
        shown = row.shown()
        kept = kept_tokens(shown[..., self.width :])
        return kept, kept.sum(-1).tolist()

    def names(self, ready: Ready) -> IntArray:
        """What stands at each place, (L,): a token's id, or a negative number that names a visual token of a frame.

        Two rows that agree in their first names agree in everything that the model computes there.
        """
        names = np.array(ready.ids)
        row = ready.row
        if row.subset is None or not row.times:
            return names
        frames = row.source * 2**24 + row.subset.cpu().numpy()
        if ready.kept is not None:  # which tokens are kept depends on the frame before
            frames = frames * 2**24 + np.concatenate(([0], row.subset.cpu().numpy()[:-1] + 1))
        counts = [row.frames.shape[1]] * len(frames) if ready.kept is None else ready.kept.sum(-1).tolist()
        places = np.flatnonzero(names == self.placeholder_id)[: sum(counts)]
        names[places] = -1 - np.repeat(frames, counts)
        return names

    def positions(self, ready: Ready) -> Tensor | None:
        """Time, row and column of each token, (3, L); None where a model counts tokens by itself."""
        if self.family.rope == "text":
            return None
        visual = torch.tensor(ready.ids) == self.placeholder_id
        return mrope_positions(visual, self.grid, ready.row.times, self.per_second)
