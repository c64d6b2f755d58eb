"""In what the families of video LMMs differ, as data and short functions; everything else is in ``huggingface.py``.

To add a family: write its :class:`Family` and list it in :data:`FAMILIES` under the ``model_type`` of its config
(docs/reference-models.md).

Dimensions: F frames · K frames in a subset · P tokens a frame · D width of the language model · C columns of a visual token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from refocus_video.reference.pixels import patches, size_within

Size = tuple[int, int]
HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
WIDESCREEN: Size = (1080, 1920)
"""The shape from which families without a fixed picture size take theirs when none is asked for."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family of Hugging Face video LMMs."""

    prompt: str
    """The chat around a question, with ``{frames}`` where the frames' placeholders go and ``{text}`` for the question."""
    placeholder: str
    """The token that is replaced by one visual token."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: Callable[[Any, int], Size]
    """(config, most pixels of a frame) -> height and width; families with a fixed size ignore the pixels."""
    size_step: Callable[[Any], int]
    """Heights and widths it can look at are multiples of this; 0 where the size is fixed."""
    encode: Callable[[Any, Tensor], Tensor]
    """(model, pixels (F, 3, H, W)) -> tokens of each frame (F, P, C), as the language model gets them in the first D columns."""
    frame: str = "{placeholders}"
    """What stands for one frame: ``{placeholders}`` and optionally ``{number}`` (from 1), ``{time}`` (s), ``{clock}`` (MM:SS)."""
    between: str = ""
    """What stands between two frames."""
    before_frames: str = ""
    """What stands before the first frame: optionally ``{count}`` (of frames, in words) and ``{duration}`` (H:MM:SS)."""
    after_frames: str = ""
    """What stands after the last frame; may hold placeholders for ``trailer``."""
    trailer: Callable[[Any], Tensor] | None = None
    """model -> visual tokens that stand once after all frames, (T, C); T = number of placeholders in ``after_frames``."""
    answer_prefix: str = ""
    """What stands between the prompt and an answer."""
    columns: Literal["tokens", "deepstack", "patches"] = "tokens"
    """What the columns beyond D hold: nothing, features added in later layers, or the pixels that decide which tokens are kept."""
    rope: Literal["text", "frames", "seconds"] = "text"
    """Positions: plain; rows and columns of each frame; or these with the frame's time in the first of the three."""
    time_matters: bool = False
    """Whether the model is told at what times the frames were taken."""


def _square(side: int) -> Size:
    return side, side


def _no_step(config: Any) -> int:
    return 0


def _one_line(found: Any) -> Tensor:
    """Visual tokens one after another, (T, D): versions of transformers give one tensor, or one for each video."""
    tokens = found if isinstance(found, Tensor) else torch.cat(list(found))
    return tokens.reshape(-1, tokens.shape[-1])


def _llava_onevision_encode(model: Any, pixels: Tensor) -> Tensor:
    tokens = _one_line(model.get_video_features(pixels[None], return_dict=True).pooler_output)
    vision = model.config.vision_config
    per_frame = math.ceil(vision.image_size // vision.patch_size / 2) ** 2
    # Newer versions of transformers put the newline that ends a video after the frames' rows.
    return tokens[: len(pixels) * per_frame].reshape(len(pixels), per_frame, -1)


def _llava_onevision_trailer(model: Any) -> Tensor:
    newline: Tensor = model.model.image_newline
    return newline[None]


def _internvl_encode(model: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return tokens


def _smolvlm_encode(model: Any, pixels: Tensor) -> Tensor:
    tokens = _one_line(model.get_image_features(pixels[None], return_dict=True).pooler_output)
    return tokens.reshape(len(pixels), -1, tokens.shape[-1])


def _qwen_patches(model: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame is doubled into a temporal patch of its own: pairs of neighbours could not be shared between subsets."""
    vision = model.config.vision_config
    flat = patches(pixels, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    return flat.flatten(0, 1), _grid(pixels, vision.patch_size)


def _qwen2_5_encode(model: Any, pixels: Tensor) -> Tensor:
    flat, grid = _qwen_patches(model, pixels)
    tokens = _one_line(model.get_video_features(flat, grid, return_dict=True).pooler_output)
    return tokens.reshape(len(pixels), -1, tokens.shape[-1])


def _qwen3_encode(model: Any, pixels: Tensor) -> Tensor:
    flat, grid = _qwen_patches(model, pixels)
    out = model.get_video_features(flat, grid, return_dict=True)
    parts = [_one_line(out.pooler_output), *map(_one_line, out.deepstack_features)]
    tokens = torch.cat(parts, dim=-1)
    return tokens.reshape(len(pixels), -1, tokens.shape[-1])


VIDEO_LLAMA_3_MERGE = 2
"""Patches along one side of a token of a video frame; single images use 1."""


def _video_llama_3_encode(model: Any, pixels: Tensor) -> Tensor:
    size, merge = model.config.vision_config.patch_size, VIDEO_LLAMA_3_MERGE
    flat = patches(pixels, size, merge, 1)  # (F, gh·gw, 3·size²)
    merges = torch.tensor([merge], device=pixels.device)
    # The outer method forgets the merge sizes.
    out = model.model.get_video_features(flat.flatten(0, 1), _grid(pixels, size), merges, return_dict=True)
    tokens = out.pooler_output[0].reshape(len(pixels), -1, out.pooler_output[0].shape[-1])
    # As levels 0..255, which every float type holds exactly: the model's own may not tell neighbouring normalised levels apart.
    levels = ((flat.float() * HALF[0] + HALF[0]) * 255).round()
    return torch.cat((tokens, levels.reshape(*tokens.shape[:2], -1).to(tokens)), dim=-1)


def _grid(pixels: Tensor, patch_size: int) -> Tensor:
    """The patch grid of F frames as one video, (1, 3)."""
    frames, _, height, width = pixels.shape
    return torch.tensor([[frames, height // patch_size, width // patch_size]], device=pixels.device)


def kept_tokens(levels: Tensor, threshold: float = 0.1) -> Tensor:
    """Which tokens VideoLLaMA3 keeps: those that changed since the frame shown before.

    All of the first frame, and at least one of each; as in the official processor with its default settings, which compare
    normalised pixels and so see every difference of levels 0..255 doubled.

    Args:
        levels: of the pixels under each token, 0..255, (K, P, pixels).
        threshold: mean difference above which a token has changed.

    Returns:
        (K, P) bool.
    """
    changed = (levels[1:].float() - levels[:-1].float()).abs().mean(-1) / HALF[0] > threshold  # (K - 1, P)
    changed[:, 0] |= ~changed.any(-1)
    return torch.cat((torch.ones_like(levels[:1, :, 0], dtype=torch.bool), changed))


def _qwen_step(config: Any) -> int:
    return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)


def _video_llama_3_step(config: Any) -> int:
    return int(config.vision_config.patch_size * VIDEO_LLAMA_3_MERGE)


_CHATML = "<|im_start|>user\n{frames}{text}<|im_end|>\n<|im_start|>assistant\n"

FAMILIES: dict[str, Family] = {
    "llava_onevision": Family(
        prompt="<|im_start|>user {frames}\n{text}<|im_end|><|im_start|>assistant\n",
        after_frames="<video>",
        placeholder="<video>",
        mean=HALF,
        std=HALF,
        image_size=lambda config, _: _square(int(config.vision_config.image_size)),
        size_step=_no_step,
        encode=_llava_onevision_encode,
        trailer=_llava_onevision_trailer,
    ),
    "internvl": Family(
        prompt=_CHATML,
        frame="Frame{number}: <img>{placeholders}</img>\n",
        placeholder="<IMG_CONTEXT>",
        mean=IMAGENET[0],
        std=IMAGENET[1],
        image_size=lambda config, _: (int(config.vision_config.image_size[0]), int(config.vision_config.image_size[1])),
        size_step=_no_step,
        encode=_internvl_encode,
    ),
    "qwen2_5_vl": Family(
        prompt="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + _CHATML,
        before_frames="<|vision_start|>",
        after_frames="<|vision_end|>",
        placeholder="<|video_pad|>",
        mean=CLIP[0],
        std=CLIP[1],
        image_size=lambda config, pixels: size_within(WIDESCREEN, _qwen_step(config), pixels),
        size_step=_qwen_step,
        encode=_qwen2_5_encode,
        rope="seconds",
        time_matters=True,
    ),
    "qwen3_vl": Family(
        prompt=_CHATML,
        frame="<{time:.1f} seconds><|vision_start|>{placeholders}<|vision_end|>",
        placeholder="<|video_pad|>",
        mean=HALF,
        std=HALF,
        image_size=lambda config, pixels: size_within(WIDESCREEN, _qwen_step(config), pixels),
        size_step=_qwen_step,
        encode=_qwen3_encode,
        columns="deepstack",
        rope="frames",
        time_matters=True,
    ),
    "video_llama_3": Family(
        prompt=_CHATML,
        frame="Time {time:.1f}s:{placeholders}",
        between=",",
        after_frames="\n",
        placeholder="<|video_pad|>",
        mean=HALF,
        std=HALF,
        image_size=lambda config, pixels: size_within(WIDESCREEN, _video_llama_3_step(config), pixels),
        size_step=_video_llama_3_step,
        encode=_video_llama_3_encode,
        columns="patches",
        time_matters=True,
    ),
    "smolvlm": Family(
        prompt="<|im_start|>User: {frames}{text}<end_of_utterance>\nAssistant:",
        before_frames="You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n",
        frame="\nFrame from {clock}:<fake_token_around_image><global-img>{placeholders}<fake_token_around_image>",
        after_frames="\n\n",
        placeholder="<image>",
        mean=HALF,
        std=HALF,
        image_size=lambda config, _: _square(int(config.vision_config.image_size)),
        size_step=_no_step,
        encode=_smolvlm_encode,
        answer_prefix=" ",
        time_matters=True,
    ),
}
