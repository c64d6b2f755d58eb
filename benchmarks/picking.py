"""How much faster a group picks together than in a loop over rows, and than with a private state for each subset.

Three cases: a training step; 64 sequences of 64 picks among 512 candidates, as the published evaluation draws them; and the one
sequence of 32 that it then uses. Each is timed in three ways: as the package does it, with a private state per subset (batched),
and as the plain loop over rows. The ways take turns in one run, on random weights of a middle width, greedy so that the picks can
be compared. Seconds are those of the processor, which other programs on the machine disturb less.

    python benchmarks/picking.py [--cases published used] [--d-model 512] [--layers 4]
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from machine import keep
from refocus_video.config import PolicyConfig, VisionConfig
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from refocus_video.types import Question

TARGETS = {"published": 5.0, "used": 1.0}
"""How many times as fast as the loop over rows it must be at least."""
LONG_S = 5.0
"""A way that has taken so many seconds is not run again."""


@dataclass(frozen=True, slots=True)
class Case:
    """How much is picked."""

    videos: int
    questions: int
    group: int
    frames: int
    budget: int


CASES = {
    "training": Case(videos=8, questions=24, group=16, frames=64, budget=4),
    "published": Case(videos=1, questions=1, group=64, frames=512, budget=64),
    "used": Case(videos=1, questions=1, group=1, frames=512, budget=32),
}


class Letters:
    """A tokenizer without files: one token per character."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """One token per character."""
        return [ord(letter) % 64 for letter in text]

    def save_pretrained(self, save_directory: object) -> None:
        """There is nothing to write."""
        raise NotImplementedError


@torch.no_grad()
def pick_with_private_states(policy: FramePolicy, index: VideoIndex, asked: Asked, budget: int, group: int) -> Tensor:
    """The same picks with one copy of the state for every subset."""
    rows = torch.arange(len(asked.rows)).repeat_interleave(group)  # (Q·G,)
    state, videos = asked.state.select(rows), asked.rows[rows]
    keys, values, valid = index.keys[videos], index.values[videos], index.valid[videos]
    taken = torch.zeros_like(valid)
    x = policy.start_of_frame.expand(len(rows), 1, -1)
    picks: list[Tensor] = []
    for _ in range(budget):
        hidden, state = policy.backbone(x, state)
        logits = policy.pick_logits(policy.query_head(hidden), keys, taken[:, None], valid)
        pick = logits[:, 0].argmax(-1)  # (Q·G,)
        picks.append(pick)
        taken = taken.scatter(-1, pick[:, None], True)
        x = values[torch.arange(len(rows)), pick][:, None]
    return torch.stack(picks, -1).view(-1, group, budget)


def pick_row_by_row(policy: FramePolicy, index: VideoIndex, asked: Asked, budget: int, group: int) -> Tensor:
    """The plain loop: every subset of every question on its own."""
    questions = []
    for i in range(len(asked.rows)):
        row = torch.tensor([i])
        one = Asked(asked.state.select(row), asked.rows[row])
        subsets = [pick_with_private_states(policy, index, one, budget, 1) for _ in range(group)]
        questions.append(torch.cat(subsets, 1))
    return torch.cat(questions)


def fastest(ways: dict[str, Callable[[], Tensor]], repeats: int) -> tuple[dict[str, float], list[Tensor]]:
    """Seconds of the fastest run of each way, and the picks of each; the ways take turns, slow ones fewer."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for _ in range(repeats):
        for name, way in ways.items():
            if sum(seconds[name]) < LONG_S:
                begun = time.process_time()
                results[name] = way()
                seconds[name].append(time.process_time() - begun)
    return {name: min(taken) for name, taken in seconds.items()}, list(results.values())


def new_policy(args: argparse.Namespace) -> FramePolicy:
    vision = VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, image_size=48, patch_size=8
    )
    config = PolicyConfig(
        vision=vision,
        merge=3,
        d_model=args.d_model,
        n_layer=args.layers,
        d_state=args.d_state,
        headdim=args.headdim,
        vocab_size=64,
    )
    return FramePolicy(config, Letters()).eval()


@torch.no_grad()
def measure(policy: FramePolicy, case: Case, repeats: int) -> dict[str, Any]:
    """Seconds of one case in the three ways, and how much faster the first one is."""
    index = policy.index(torch.randn(case.videos, case.frames, 1, 16 * 9))
    rows = torch.arange(case.questions) % case.videos
    asked = policy.ask(index, [Question("what is shown")] * case.questions, rows)
    budget, group = case.budget, case.group
    ways: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: pick_frames(policy, index, asked, budget, group, greedy=True).picks,
        "private_states": lambda: pick_with_private_states(policy, index, asked, budget, group),
        "row_by_row": lambda: pick_row_by_row(policy, index, asked, budget, group),
    }
    seconds, picks = fastest(ways, repeats)
    return {
        **asdict(case),
        **{f"{name}_s": round(taken, 5) for name, taken in seconds.items()},
        "speedup_over_private_states": round(seconds["private_states"] / seconds["ours"], 2),
        "speedup_over_row_by_row": round(seconds["row_by_row"] / seconds["ours"], 2),
        "same_picks": all(torch.equal(picks[0], other) for other in picks[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    sizes = {"d-model": 512, "layers": 4, "d-state": 128, "headdim": 64, "repeats": 50, "threads": 1, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    policy = new_policy(args)
    measure(policy, Case(videos=1, questions=1, group=2, frames=8, budget=2), 1)  # warm up
    rows = {name: measure(policy, CASES[name], args.repeats) for name in args.cases}
    keep("picking", {"settings": vars(args), "target_speedups_over_row_by_row": TARGETS, "rows": rows})


if __name__ == "__main__":
    main()
