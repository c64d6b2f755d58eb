"""In what the families of video LMMs differ, as data and short functions; everything else is in ``huggingface.py``.

To add a family: write its :class:`Family` and list it in :data:`FAMILIES` under the ``model_type`` of its config.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Family:
    """One family of Hugging Face video LMMs.

    Dimensions: F frames · P tokens a frame · D width of the language model.
    """

    prompt: str
    """The chat around a question, with ``{frames}`` where the frames' placeholders go and ``{text}`` for the question."""
    frame: str
    """What stands for one frame; ``{placeholders}`` and optionally ``{number}`` (from 1) and ``{time}`` (seconds)."""
    after_frames: str
    """Placeholders after the last frame."""
    placeholder: str
    """The token that is replaced by one visual token."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: Callable[[Any], int]
    """Side length in pixels, from the model's config."""
    encode: Callable[[Any, Tensor], Tensor]
    """(model, pixels (F, 3, H, W)) -> tokens of each frame (F, P, D), as the language model gets them."""
    trailer: Callable[[Any], Tensor]
    """Visual tokens that stand once after all frames, (T, D); T = number of placeholders in ``after_frames``."""


def _llava_onevision_encode(model: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = model.get_video_features(pixels[None], return_dict=True).pooler_output[0]
    # The last row is the newline that ends a video, not a frame's.
    return tokens[:-1].reshape(len(pixels), -1, tokens.shape[-1])


def _llava_onevision_trailer(model: Any) -> Tensor:
    newline: Tensor = model.model.image_newline
    return newline[None]


def _internvl_encode(model: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return tokens


def _no_trailer(model: Any) -> Tensor:
    return torch.empty(0, model.config.text_config.hidden_size)


FAMILIES: dict[str, Family] = {
    "llava_onevision": Family(
        prompt="<|im_start|>user {frames}\n{text}<|im_end|><|im_start|>assistant\n",
        frame="{placeholders}",
        after_frames="<video>",
        placeholder="<video>",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        image_size=lambda config: int(config.vision_config.image_size),
        encode=_llava_onevision_encode,
        trailer=_llava_onevision_trailer,
    ),
    "internvl": Family(
        prompt="<|im_start|>user\n{frames}{text}<|im_end|>\n<|im_start|>assistant\n",
        frame="Frame{number}: <img>{placeholders}</img>\n",
        after_frames="",
        placeholder="<IMG_CONTEXT>",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        image_size=lambda config: int(config.vision_config.image_size[0]),
        encode=_internvl_encode,
        trailer=_no_trailer,
    ),
}
