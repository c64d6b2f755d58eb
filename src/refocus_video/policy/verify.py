"""Compares a released checkpoint with the numbers that the published code computes for it (METHOD §3).

The folder holds a checkpoint and two more files: ``inputs.safetensors`` with the pixels and the prompt, and
``expected.safetensors`` with what the published code makes of them. Every expected tensor is compared with what our code
computes when the frames are indexed at once, and when they are streamed in pieces.

Legend: F frames, G subsets, K picks, L tokens of the whole prompt, D width, H height, W width of a picture.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from refocus_video.config import VisionConfig
from refocus_video.errors import CheckpointError
from refocus_video.policy.files import read_safetensors, read_weights
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from refocus_video.policy.released import TOWER
from refocus_video.types import Question

INPUTS_FILE = "inputs.safetensors"
EXPECTED_FILE = "expected.safetensors"
FRAMES_TOKEN = -200
"""Marks the place of the frames among the prompt's tokens."""
MASKED = -1e29
"""Anything below stands for −∞: the expected numbers have −1e30 there."""
GIVEN = frozenset({"candidates"})
"""What the expected file holds for us to start from."""
LIMIT = 1e-4


class Comparison(NamedTuple):
    """One expected tensor against ours."""

    name: str
    """Of the tensor, and how the frames were indexed."""
    error: float
    """Largest absolute difference; infinite when we compute no such tensor, or one of another shape."""
    limit: float
    ok: bool


class PromptTokens:
    """Stands for the tokenizer: the token ids before and after the frames, whatever the text."""

    def __init__(self, ids: Tensor) -> None:
        flat = ids.flatten().tolist()
        if flat.count(FRAMES_TOKEN) != 1:
            raise CheckpointError(
                f"{INPUTS_FILE}: input_ids must hold {FRAMES_TOKEN} once, where the frames go; found {flat}"
            )
        place = flat.index(FRAMES_TOKEN)
        self.before, self.after = flat[:place], flat[place + 1 :]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The ids after the frames for a question, which starts with a newline, else those before the frames."""
        return self.after if text.startswith("\n") else self.before

    def save_pretrained(self, save_directory: str | Path) -> Any:
        """There is nothing to write."""


@torch.no_grad()
def verify_checkpoint(
    folder: str | Path,
    *,
    vision: VisionConfig | None = None,
    vision_tower: str | Path | None = None,
    device: torch.device | str = "cpu",
    limit: float = LIMIT,
) -> list[Comparison]:
    """Compare every expected tensor of a folder with ours, in float32.

    Where the checkpoint does not tell the sizes of its tower, they are read off its weights and pixels, and the number of
    attention heads is the one that fits the expected hidden state of the first frame best.

    Args:
        folder: a released checkpoint with ``inputs.safetensors`` and ``expected.safetensors``.
        vision: sizes of the tower, see :meth:`FramePolicy.from_pretrained`.
        vision_tower: folder or hub id of the tower.
        device: where to compute.
        limit: largest difference that is all right.

    Raises:
        CheckpointError: when a file is missing, or the checkpoint does not load.
    """
    folder = Path(folder).expanduser()
    inputs, expected = _read(folder / INPUTS_FILE), _read(folder / EXPECTED_FILE)
    tokens = PromptTokens(_named(inputs, "input_ids"))
    policy = _load(folder, tokens, inputs, expected, vision, vision_tower).to(device)
    features = _features(policy, inputs)
    rows = []
    frames = len(features)
    for way, segments in (("whole", (frames,)), ("streamed", (1, math.ceil(frames / 3)))):
        found = [_compute(policy, features, expected, segment) for segment in segments]
        for name in sorted(expected.keys() - GIVEN):
            error = max(_error(each.get(name), expected[name]) for each in found)
            rows.append(Comparison(f"{name} ({way})", error, limit, error <= limit))
    return rows


def _compute(policy: FramePolicy, features: Tensor, expected: dict[str, Tensor], segment: int) -> dict[str, Tensor]:
    """All that we can compare, from features (F, P, C) that are indexed some frames at a time."""
    hidden, _ = policy.hidden_states(features[None], segment=segment)
    index = policy.index(features[None], segment=segment)
    asked = policy.ask(index, [Question("as given")], torch.tensor([0]))
    found = {
        "visual_mask": _tail_mask(policy, *features.shape[:2]),
        "tail_hidden": hidden[0],
        "frame_keys": index.keys[0],
        "final_ssm_state_last_layer": asked.state.layers[-1].ssm,
        "final_conv_state_last_layer": asked.state.layers[-1].conv,
    }
    if not policy.in_block:
        found["frame_values"] = index.values[0]
    if "candidates" in expected:
        picks = expected["candidates"].to(policy.device, torch.int64)[None]  # (1, G, K)
        found |= _compute_picks(policy, index, asked, picks, per_pick=expected)
    return found


def _compute_picks(
    policy: FramePolicy, index: VideoIndex, asked: Asked, picks: Tensor, per_pick: dict[str, Tensor]
) -> dict[str, Tensor]:
    scores = policy.log_probs(index, asked, picks).log_probs[0]  # (G, K)
    found = {
        # A published "block" policy gives the sum over the picks.
        "selection_logp": scores if _dimensions(per_pick, "selection_logp") > 1 else scores.sum(-1),
        "step_logp": policy.log_distributions(index, asked, picks)[0],  # (G, K, F)
    }
    if not policy.in_block:
        group, budget = picks.shape[1:]
        # The product's own sampler, told what to pick: what is verified is what selects.
        found["sampler_logp"] = pick_frames(policy, index, asked, budget, group, forced=picks).log_probs[0]
        if policy.config.use_rank_head:
            found["rank_logits"] = policy.rank_scores(index, asked, picks)[0]  # (G,)
    return found


def _tail_mask(policy: FramePolicy, frames: int, tokens: int) -> Tensor:
    """Which tokens of the prompt are the last of a frame, (L,) bool."""
    before, after = (len(policy.tokenizer.encode(text, add_special_tokens=False)) for text in ("", "\n"))
    mask = torch.zeros(before + frames * tokens + after, dtype=torch.bool)
    mask[before + tokens - 1 : before + frames * tokens : tokens] = True
    return mask


def _features(policy: FramePolicy, inputs: dict[str, Tensor], frames: int | None = None) -> Tensor:
    """Features of the first frames, or of all: (F, P, C)."""
    side = policy.config.vision.image_size
    parts = []
    for part in torch.split(_pixels(inputs)[:frames], 8):
        pixels = part.to(policy.device, torch.float32)  # (N, 3, H, W)
        parts.append(policy.vision.features(F.interpolate(pixels, size=(side, side), mode="nearest")))
    return torch.cat(parts)


def _pixels(inputs: dict[str, Tensor]) -> Tensor:
    """Normalised pixels (F, 3, H, W), as large as the file has them."""
    names = [name for name in inputs if re.fullmatch(r"pixel_values(_\d+)?", name)]
    if len(names) != 1:
        found = ", ".join(sorted(inputs))
        raise CheckpointError(f"{INPUTS_FILE}: expected one tensor pixel_values or pixel_values_N, found {found}")
    return inputs[names[0]]


def _load(
    folder: Path,
    tokens: PromptTokens,
    inputs: dict[str, Tensor],
    expected: dict[str, Tensor],
    vision: VisionConfig | None,
    vision_tower: str | Path | None,
) -> FramePolicy:
    try:
        return FramePolicy.from_pretrained(folder, tokenizer=tokens, vision=vision, vision_tower=vision_tower)
    except CheckpointError:
        weights = read_weights(folder)
        if vision is not None or vision_tower is not None or "tail_hidden" not in expected:
            raise
        choices = list(_towers_that_fit(weights, _pixels(inputs).shape[-1]))
        if not choices:
            raise
    errors = []
    for choice in choices:
        policy = FramePolicy.from_pretrained(folder, tokenizer=tokens, vision=choice)
        hidden, _ = policy.hidden_states(_features(policy, inputs, 1)[None])
        errors.append(_error(hidden[0], expected["tail_hidden"][:1]))
    best = choices[errors.index(min(errors))]
    return FramePolicy.from_pretrained(folder, tokenizer=tokens, vision=best)


def _towers_that_fit(weights: dict[str, Tensor], pixels: int) -> Iterator[VisionConfig]:
    """Towers that have the weights' sizes and read a whole multiple of the pixels, one for each number of heads."""
    patches = weights.get(TOWER + "embeddings.patch_embedding.weight")  # (hidden, 3, patch, patch)
    positions = weights.get(TOWER + "embeddings.position_embedding.weight")  # (R·R, hidden)
    inner = weights.get(TOWER + "encoder.layers.0.mlp.fc1.weight")  # (intermediate, hidden)
    if patches is None or positions is None or inner is None:
        return
    width, patch, side = len(patches), patches.shape[-1], math.isqrt(len(positions))
    smallest = pixels * math.ceil(side * patch / pixels)
    layers = [
        name for name in weights if re.fullmatch(re.escape(TOWER) + r"encoder\.layers\.\d+\.layer_norm1\.bias", name)
    ]
    if smallest // patch != side:
        return
    for heads in (each for each in range(1, width + 1) if width % each == 0):
        yield VisionConfig(
            hidden_size=width,
            intermediate_size=len(inner),
            num_hidden_layers=len(layers),
            num_attention_heads=heads,
            image_size=smallest,
            patch_size=patch,
        )


def _error(found: Tensor | None, expected: Tensor) -> float:
    """The largest absolute difference; for yes-or-no tensors, the number of differences."""
    if found is None or found.shape != expected.shape:
        return math.inf
    found = found.cpu()
    if expected.dtype == torch.bool:
        return float((found != expected).sum())
    difference = (found.double().clamp(min=MASKED) - expected.double().clamp(min=MASKED)).abs()
    return math.inf if difference.isnan().any() else float(difference.max()) if difference.numel() else 0.0


def _dimensions(tensors: dict[str, Tensor], name: str) -> int:
    return tensors[name].dim() if name in tensors else 0


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} holds no {path.name}; give a folder with a checkpoint and its reference numbers"
        )
    return read_safetensors(path)


def _named(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{INPUTS_FILE}: expected a tensor {name}, found {', '.join(sorted(tensors))}")
    return tensors[name]
