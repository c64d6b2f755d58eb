"""Frames as compressed pictures inside a tensor, so that they are kept and picked by position like any other features.

A row of uint8 holds one picture: its length in four bytes, little-endian, then its bytes, then zeros. Pure.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from refocus_video.config import PictureFormat
from refocus_video.types import ByteArray

_LENGTH_BYTES = 4


def compress(frame: ByteArray, form: PictureFormat, quality: int) -> bytes:
    """One frame (H, W, 3) uint8 as a JPEG (of a quality 1..100) or PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    settings = {"quality": quality} if form == "jpeg" else {}
    Image.fromarray(frame).save(stream, format=form, **settings)
    return stream.getvalue()


def to_rows(pictures: Sequence[bytes]) -> Tensor:
    """F pictures as (F, 4 + longest) uint8."""
    table = np.zeros((len(pictures), _LENGTH_BYTES + max(map(len, pictures), default=0)), dtype=np.uint8)
    for row, picture in zip(table, pictures, strict=True):
        content = len(picture).to_bytes(_LENGTH_BYTES, "little") + picture
        row[: len(content)] = np.frombuffer(content, dtype=np.uint8)
    return torch.from_numpy(table)


def from_row(row: Tensor) -> bytes:
    """The picture in one row of :func:`to_rows`."""
    content = row.to(device="cpu", dtype=torch.uint8).numpy().tobytes()
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    return content[_LENGTH_BYTES : _LENGTH_BYTES + length]
