"""Several reference models as one: the same subsets, each model with features of its own.

Dimensions: F candidate frames · G subsets · O options · M models.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from refocus_video.reference.base import ReferenceModel, ScoreRequest, whole
from refocus_video.types import ByteArray

_HEADER_BYTES = 1024
_ALIGNMENT = 16


class EnsembleReference:
    """Reference models behind one :class:`refocus_video.reference.base.ReferenceModel`."""

    def __init__(self, members: Sequence[ReferenceModel]) -> None:
        """Nothing is run."""
        self.members = tuple(members)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the largest that a member wants; the others get smaller copies."""
        heights, widths = zip(*(member.image_size for member in self.members), strict=True)
        return max(heights), max(widths)

    def encode(self, frames: ByteArray) -> Tensor:
        """The features of all members side by side, (F, bytes) uint8: see :func:`pack`."""
        return pack([member.encode(_resized(frames, member.image_size)).cpu() for member in self.members])

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """Logarithm of the mean probability that the members give an option, (G, O) float32 a request.

        Probabilities are those among the options; for given texts, where there are none, the scores themselves are averaged.
        """
        together = []
        for request, scores in zip(requests, zip(*self.score_each(requests), strict=True), strict=True):
            table = torch.stack(scores).float()  # (M, G, O)
            if request.texts is None:
                together.append(table.log_softmax(-1).logsumexp(0) - math.log(len(table)))
            else:
                together.append(table.mean(0))
        return together

    def score_each(self, requests: Sequence[ScoreRequest]) -> list[list[Tensor]]:
        """Every member's own scores: M lists of one (G, O) tensor a request."""
        unpacked = {id(request.features): unpack(whole(request.features)) for request in requests}
        return [
            member.score([replace(request, features=unpacked[id(request.features)][i]) for request in requests])
            for i, member in enumerate(self.members)
        ]


def scores_of_each(reference: ReferenceModel, requests: Sequence[ScoreRequest]) -> list[list[Tensor]]:
    """The scores of every member of an ensemble, or of the one model that there is: M lists of one (G, O) tensor a request."""
    return reference.score_each(requests) if isinstance(reference, EnsembleReference) else [reference.score(requests)]


def pack(parts: Sequence[Tensor]) -> Tensor:
    """Several tensors of features, each (F, ...), as one (F, bytes) uint8: rows can still be picked by position.

    Every row begins with the types and shapes of its parts, so that it says by itself how it is read.
    """
    about = json.dumps([[str(part.dtype).removeprefix("torch."), list(part.shape[1:])] for part in parts]).encode()
    assert len(about) <= _HEADER_BYTES, "more parts than a header can tell of"
    header = torch.frombuffer(bytearray(about.ljust(_HEADER_BYTES)), dtype=torch.uint8)
    blocks = [header.expand(len(parts[0]), -1)]
    for part in parts:
        raw = part.contiguous().reshape(len(part), -1).view(torch.uint8)
        blocks.append(torch.nn.functional.pad(raw, (0, -raw.shape[1] % _ALIGNMENT)))
    return torch.cat(blocks, dim=1)


def unpack(packed: Tensor) -> list[Tensor]:
    """What was given to :func:`pack`; the tensors share its memory."""
    about = json.loads(bytes(packed[0, :_HEADER_BYTES].tolist()))
    parts, start = [], _HEADER_BYTES
    for name, shape in about:
        dtype: torch.dtype = getattr(torch, name)
        width = math.prod(shape) * dtype.itemsize
        parts.append(packed[:, start : start + width].view(dtype).view(-1, *shape))
        start += width + -width % _ALIGNMENT
    return parts


def _resized(frames: ByteArray, size: tuple[int, int]) -> ByteArray:
    """Frames (F, H, W, 3) at another height and width."""
    if frames.shape[1:3] == size:
        return frames
    from PIL import Image

    height, width = size
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames])
