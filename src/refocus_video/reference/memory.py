"""Micro-batches that fit: a first guess from the free memory, halved for good when it was too much."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from refocus_video.errors import ReferenceModelError

logger = logging.getLogger(__name__)

CPU_VALUES = 288_000
"""Hidden values a call on a CPU, tokens × width: more is slower, because they no longer fit the caches."""
SHARE = 0.5
"""Of the free memory, what the first guess takes."""

Result = TypeVar("Result")


def bytes_per_token(text_config: Any, element_size: int) -> int:
    """Memory that one token takes at most while a language model runs: activations of one layer, keys and values of all."""
    width, inner = text_config.hidden_size, text_config.intermediate_size
    heads = text_config.num_attention_heads
    head = getattr(text_config, "head_dim", None) or width // heads
    held = 2 * text_config.num_hidden_layers * (getattr(text_config, "num_key_value_heads", None) or heads) * head
    return int(element_size * (8 * width + 3 * inner + 2 * held))


def first_guess(model: Any, text_config: Any) -> int:
    """Tokens a call may hold at first."""
    if model.device.type != "cuda":
        return max(1, CPU_VALUES // int(text_config.hidden_size))
    free, _ = torch.cuda.mem_get_info(model.device)
    element_size = torch.empty(0, dtype=model.dtype).element_size()
    return max(1, int(free * SHARE / bytes_per_token(text_config, element_size)))


class Fitting:
    """A number of things at a time that fits the memory; it only ever becomes smaller."""

    def __init__(self, what: str, size: int) -> None:
        """``what`` is counted by ``size``, for messages."""
        self.what = what
        self.size = size
        self.halvings = 0

    def run(self, work: Callable[[Any], Result], items: Any, cost: int) -> list[Result]:
        """``work`` on all items at once, or on halves of them where that does not fit.

        Args:
            work: what is done to some of the items.
            items: a list or array, with at least one entry.
            cost: what they count for together; the size is lowered below it when they do not fit.

        Raises:
            ReferenceModelError: if a single item does not fit.
        """
        try:
            return [work(items)]
        except torch.OutOfMemoryError:
            self.halvings += 1
            self.size = min(self.size, max(1, cost // 2))
            if len(items) == 1:
                raise ReferenceModelError(
                    f"out of memory with a single one of the reference model's {self.what} at a time; "
                    "choose a smaller model, frame size or number of frames"
                ) from None
            logger.warning("out of memory: from now on at most %d %s at a time", self.size, self.what)
        # Outside of the handler, so that the failed call's tensors can be freed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(items) // 2
        return self.run(work, items[:half], cost // 2) + self.run(work, items[half:], cost - cost // 2)
