"""Frames that are looked at when they are first needed, and never twice.

A trained policy touches a few dozen of 512 candidates; the rest is never encoded.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from refocus_video.types import ByteArray


class FrameCache:
    """What a reference model sees of one video's F candidate frames, by position, encoded on demand.

    It stands wherever the result of :meth:`ReferenceModel.encode` may stand.
    """

    def __init__(self, encode: Callable[[ByteArray], Tensor], frames: ByteArray) -> None:
        """Keep the frames (F, H, W, 3) uint8; nothing is encoded yet. ``encode`` is that of a reference model."""
        self._encode = encode
        self._frames = frames
        self._rows = torch.full((len(frames),), -1, dtype=torch.long)
        self._parts: Tensor | None = None

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def shape(self) -> torch.Size:
        """Of all features, (F, ...), as if all had been encoded."""
        if self._parts is None:
            self.load(torch.zeros(1, dtype=torch.long))
        assert self._parts is not None
        return torch.Size((len(self), *self._parts.shape[1:]))

    @property
    def encoded(self) -> int:
        """How many frames have been looked at so far."""
        return 0 if self._parts is None else len(self._parts)

    def load(self, positions: Tensor) -> None:
        """Encode those of some positions that have not been, together."""
        wanted = torch.unique(positions.cpu()).flatten()
        missing = wanted[self._rows[wanted] < 0]
        if len(missing):
            new = self._encode(self._frames[missing.numpy()])
            self._rows[missing] = torch.arange(len(missing)) + self.encoded
            self._parts = new if self._parts is None else torch.cat((self._parts, new))

    def __getitem__(self, positions: Tensor | int) -> Tensor:
        """Features at positions (K,): (K, ...); of a single position: (...)."""
        places = torch.as_tensor(positions).cpu()
        self.load(places)
        if self._parts is None:  # no positions at all
            raise IndexError("no positions were asked for")
        return self._parts[self._rows[places].to(self._parts.device)]
