"""Memory of one training pass over a video's prefix: nothing recomputed, segments, or cells of layers × segment.

Bytes of tensors that are alive at once, counted exactly (live_bytes.py): the forward and backward pass of indexing one
video, weights and features aside. It is counted, not measured on a device: what a GPU's libraries need while they
run and what its allocator leaves unused come on top.

    python benchmarks/checkpointing.py              small model on CPU, three lengths, and what a pass takes in time
    python benchmarks/checkpointing.py --full       the 1.3B model, 512 frames × 196 tokens, on tensors without numbers
"""

import argparse
import time
from typing import Any

import torch

from live_bytes import LiveBytes
from machine import keep
from picking import Letters
from refocus_video.config import ComputeConfig, PolicyConfig, VisionConfig
from refocus_video.policy.policy import FramePolicy

SMALL = PolicyConfig(
    vision=VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
    ),
    d_model=128,
    n_layer=8,
    d_state=32,
    headdim=32,
    vocab_size=64,
)
GB = 1e9
ADAM_COPIES = 2
"""Moments that AdamW keeps of each weight, in the weight's type."""


def pass_over(policy: FramePolicy, frames: int, tokens: int, layers: int) -> dict[str, Any]:
    """One forward and backward pass; a whole-video segment recomputes nothing."""
    config = policy.config
    policy.backbone.compute = ComputeConfig(segment_tokens=tokens, cell_layers=layers)
    shape = (1, frames, config.tokens_per_frame, config.vision.hidden_size * config.merge**2)
    features = torch.zeros(shape, device=policy.device, dtype=policy.logit_scale.dtype)
    policy.zero_grad()
    with LiveBytes() as live:
        live.ignore(features, *policy.parameters())
        begun = time.perf_counter()
        index = policy.index(features)
        loss = index.keys.float().square().mean() + index.values.float().square().mean()
        kept = live.now
        loss.backward()  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - begun
        gradients = sum(p.grad.nbytes for p in policy.parameters() if p.grad is not None)
    return {
        "frames": frames,
        "tokens": frames * config.tokens_per_frame,
        "segment_tokens": tokens,
        "cell_layers": layers,
        "kept_by_forward_gb": round(kept / GB, 4),
        "peak_gb": round(live.peak / GB, 4),
        "gradients_gb": round(gradients / GB, 4),
        "seconds": round(seconds, 2),
    }


def ways(length: int, depth: int, segment: int, cell: int) -> dict[str, tuple[int, int]]:
    """Tokens of a segment and layers of a cell: of nothing, of segments alone, and of both axes."""
    return {"none": (length, depth), "segments": (segment, depth), "cells": (segment, cell)}


def small(lengths: list[int]) -> dict[str, Any]:
    """On real numbers, with the time of each pass."""
    torch.manual_seed(0)
    policy = FramePolicy(SMALL, Letters())
    rows = []
    for frames in lengths:
        tokens = frames * SMALL.tokens_per_frame
        for way, (segment, cell) in ways(tokens, SMALL.n_layer, 256, 2).items():
            rows.append({"recomputed": way, **pass_over(policy, frames, segment, cell)})
    return {"model": SMALL.model_dump(exclude={"vision"}), "rows": rows}


def full(frames: int, dtype: torch.dtype, segments: list[int], cells: list[int]) -> dict[str, Any]:
    """The 1.3B model on tensors that have sizes and types, but no numbers."""
    config = PolicyConfig()
    with torch.device("meta"):
        policy = FramePolicy(config, Letters()).to(dtype)
    policy.vision.requires_grad_(False)
    policy.vision.projector.requires_grad_(True)
    trained = sum(p.nbytes for p in policy.parameters() if p.requires_grad)
    constant = sum(p.nbytes for p in policy.parameters()) + ADAM_COPIES * trained
    rows = []
    for segment in segments:
        for cell in cells:
            row = pass_over(policy, frames, segment, cell)
            row["total_gb"] = round(row["peak_gb"] + constant / GB, 2)
            rows.append(row)
            print(row, flush=True)
    return {
        "model": "1.3B",
        "weights": str(dtype).removeprefix("torch."),
        "computed": "counted on tensors without numbers; not measured on a GPU",
        "weights_and_adam_gb": round(constant / GB, 2),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", help="lengths; 64 128 256, or 512 for the full model")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--segments", type=int, nargs="+", default=[4096])
    parser.add_argument("--cells", type=int, nargs="+", default=[8, 48])
    options = parser.parse_args()
    if options.full:
        dtype = getattr(torch, options.dtype)
        frames = options.frames or [512]
        report = {"runs": [full(count, dtype, options.segments, options.cells) for count in frames]}
        keep(f"checkpointing-1.3b-{options.dtype}", report)
    else:
        keep("checkpointing", small(options.frames or [64, 128, 256]))


if __name__ == "__main__":
    main()
