"""What sharing saves when a group of subsets is scored: 16 subsets of 32 of 512 frames, shared against naive.

Naive is what a processor and a model call do for each subset by itself: its 32 frames go through the vision tower, then all of
its tokens through the language model. Two sorts of subsets: *random* ones, as an untrained policy draws them, and *trained* ones,
drawn from 36 frames with strong preferences among them, as a policy draws that has learned where to look: about 36 distinct
frames and 11 distinct subsets. Both ways in the same run.

The tiny models keep the proportions of InternVL3-2B, where a frame costs the vision tower (InternViT-300M on 1025 patches) about
as much as the language model (1.3B parameters that are multiplied, on 260 tokens): 64 patches of width 128 in 4 layers, and
about 20 tokens of width 192 in 6 layers.

    python benchmarks/scoring.py [--families internvl qwen3_vl] [--runs 3]
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from machine import keep
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference.families import FAMILIES
from refocus_video.reference.huggingface import LETTER_INSTRUCTION, HuggingFaceReference
from refocus_video.reference.tiny import words_of
from refocus_video.reference.tiny_families import Shape, family_tokenizer, tiny_model
from refocus_video.types import ByteArray, Question

FRAMES, SUBSETS, BUDGET, POOL = 512, 16, 32, 36
TINY = Shape(image_size=64, vision_width=128, vision_layers=4, width=192, layers=6, heads=4)
QUESTION = Question("Which card is shown first?", ("red", "blue", "green", "yellow"))
TARGETS = {"vision work, trained": 4.0, "end to end, trained": 2.0, "end to end, random": 1.0}


def subsets(kind: str, seed: int = 0) -> Tensor:
    """Positions in temporal order, (16, 32): ``random``, or ``trained`` among 36 preferred frames."""
    rng = np.random.default_rng(seed)
    pool = np.arange(FRAMES) if kind == "random" else rng.choice(FRAMES, POOL, replace=False)
    liking = np.zeros(FRAMES) if kind == "random" else rng.normal(scale=4.0, size=FRAMES)
    drawn = [np.sort(pool[np.argsort(-(liking[pool] + rng.gumbel(size=len(pool))))[:BUDGET]]) for _ in range(SUBSETS)]
    return torch.from_numpy(np.stack(drawn))


class Clock:
    """Seconds spent in two methods of a reference model; the rest is preparation."""

    def __init__(self, reference: HuggingFaceReference) -> None:
        """Wrap them."""
        self.reference = reference
        self.seconds = {"vision": 0.0, "prefill": 0.0}
        reference.visual_tokens = self._timed("vision", reference.visual_tokens)  # type: ignore[method-assign]
        reference._forward = self._timed("prefill", reference._forward)  # type: ignore[method-assign]

    def _timed(self, name: str, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(*given: Any, **named: Any) -> Tensor:
            begun = self.now()
            result = method(*given, **named)
            self.seconds[name] += self.now() - begun
            return result

        return timed

    def now(self) -> float:
        """Seconds, when everything asked for has been computed."""
        if self.reference.model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def measure(self, work: Callable[[], list[Tensor]]) -> tuple[dict[str, Any], Tensor]:
        """Seconds and counts of some scoring, and its scores (G, O)."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        done, begun = self.reference.work, self.now()
        before = (done.frames, done.rows, done.tokens)
        scores = torch.cat(work())
        whole = self.now() - begun
        counts = [a - b for a, b in zip((done.frames, done.rows, done.tokens), before, strict=True)]
        split = self.seconds | {"rest": whole - sum(self.seconds.values())}
        report = {"seconds": round(whole, 3)} | {f"{k}_s": round(v, 3) for k, v in split.items()}
        return report | dict(zip(("frames", "rows", "tokens"), counts, strict=True)), scores


def compare(reference: HuggingFaceReference, frames: ByteArray, kind: str, runs: int) -> dict[str, Any]:
    """Naive and shared scoring of the same subsets, alternating; the fastest run of each."""
    times, chosen, clock = torch.arange(len(frames)) / 4.0, subsets(kind), Clock(reference)

    def naive() -> list[Tensor]:
        shown = torch.arange(BUDGET)[None]
        return [
            reference.score(
                [
                    ScoreRequest(
                        reference.encode(frames[subset.numpy()]), times[subset], QUESTION, shown, duration_s=128.0
                    )
                ]
            )[0]
            for subset in chosen
        ]

    def shared() -> list[Tensor]:
        return reference.score([ScoreRequest(reference.cache(frames), times, QUESTION, chosen, duration_s=128.0)])

    reference.encode(frames[:2])  # the first call loads what it needs
    results = [(clock.measure(naive), clock.measure(shared)) for _ in range(runs)]
    apart, together = (min((r[i][0] for r in results), key=lambda found: found["seconds"]) for i in (0, 1))
    return {
        "distinct": {"frames": len(set(chosen.flatten().tolist())), "subsets": len(set(map(tuple, chosen.tolist())))},
        "naive": apart,
        "shared": together,
        "vision_work_ratio": round(apart["frames"] / together["frames"], 2),
        "token_ratio": round(apart["tokens"] / together["tokens"], 2),
        "end_to_end_ratio": round(apart["seconds"] / together["seconds"], 2),
        "largest_difference": round(float((results[0][0][1] - results[0][1][1]).abs().max()), 6),
    }


def both(reference: HuggingFaceReference, runs: int = 3) -> dict[str, Any]:
    """Random and trained subsets on one model."""
    size = (FRAMES, *reference.image_size, 3)
    frames = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return {kind: compare(reference, frames, kind, runs) for kind in ("random", "trained")}


def _tokenizer() -> Any:
    texts = [QUESTION.text, *QUESTION.options, LETTER_INSTRUCTION, "A B C D user assistant Frame Time seconds s : . ,"]
    return family_tokenizer(words_of(texts))


def tiny_reference(kind: str) -> HuggingFaceReference:
    """A tiny model of a family, in the proportions of a large one."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    side = TINY.image_size
    return HuggingFaceReference(tiny_model(kind, tokenizer, TINY), tokenizer, frame_size=(side, side))


def internvl3_2b(device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> HuggingFaceReference:
    """InternVL3-2B in its real shape, with random weights: for ``both`` on a GPU."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config

    tokenizer = _tokenizer()
    vision = InternVLVisionConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        image_size=[448, 448],
        patch_size=[14, 14],
    )
    text = Qwen2Config(
        vocab_size=151_674,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32_768,
    )
    token = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = InternVLConfig(vision_config=vision, text_config=text, image_token_id=token, image_seq_length=256)
    with torch.device(device):
        model = InternVLForConditionalGeneration(config).to(dtype)
    return HuggingFaceReference(model, tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    report = {kind: both(tiny_reference(kind), options.runs) for kind in options.families}
    keep("scoring", {"targets": TARGETS, "frames": FRAMES, "subsets": SUBSETS, "budget": BUDGET, "families": report})


if __name__ == "__main__":
    main()
