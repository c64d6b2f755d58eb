"""Where tensors live and in which type: one answer for every command and class.

What holds across devices: the same weights give the same numbers up to rounding, which decides only between candidates that are as
good as equal. The random numbers of a selection are drawn on the processor, so that a seed means the same everywhere; those of a
training are drawn on its device, and the same seed gives the same run only on the same kind of device.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from refocus_video.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")

ORDER = ("cuda", "mps", "cpu")
"""What ``auto`` prefers. AMD GPUs call themselves cuda too."""


def resolve(device: str | torch.device = "auto") -> torch.device:
    """The device that is meant: ``auto`` is an NVIDIA or AMD GPU, else a Mac's, else the processor.

    Args:
        device: ``auto``, or a device in torch's words: cuda, cuda:1, mps, cpu.

    Raises:
        ConfigError: when it is not there. Nothing else takes its place.
    """
    if device == "auto":
        return next(torch.device(kind) for kind in ORDER if _count(kind))
    try:
        asked = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"{str(device)!r} is no device; choose auto, cuda, cuda:1, mps or cpu") from None
    if (asked.index or 0) < _count(asked.type):
        return asked
    there = [f"{kind}:{i}" if kind == "cuda" else kind for kind in ORDER for i in range(_count(kind))]
    raise ConfigError(
        f"asked for device {str(device)!r}, but torch {torch.__version__} finds only {', '.join(there)} here; "
        "choose one of them or auto (`refocus env` shows more)"
    )


def default_dtype(device: torch.device, stored: torch.dtype) -> torch.dtype:
    """The type of a policy's weights when none is asked for: bfloat16 where they are stored so and a GPU is at hand, else float32.

    Processors and Macs are often slower in bfloat16 than in float32, and nothing is won by storing float32 weights shorter.
    """
    return stored if device.type == "cuda" and stored == torch.bfloat16 else torch.float32


def product_dtype(weight: Tensor) -> torch.dtype:
    """The type in which products with a weight are computed here: its own, or that of ``torch.autocast``."""
    return torch.get_autocast_dtype(weight.device.type) if _in_autocast(weight.device) else weight.dtype


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block that ``torch.autocast`` leaves alone: products stay in the type of what is multiplied."""
    return torch.autocast(device.type, enabled=False) if _in_autocast(device) else nullcontext()


def in_full_precision(function: Callable[Concatenate[Tensor, P], T]) -> Callable[Concatenate[Tensor, P], T]:
    """A function of tensors, the first one first, that runs in :func:`full_precision`."""

    @wraps(function)
    def shielded(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with full_precision(x.device):
            return function(x, *args, **kwargs)

    return shielded


def _in_autocast(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return int(kind == "cpu")
