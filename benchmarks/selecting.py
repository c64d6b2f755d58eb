"""Time of a question about a video: the first one, which looks at the video, against further ones, which do not.

Small: the haystack sizes, on two videos made here, of 16 seconds and of 1280×720 pixels long enough for the paper's 512 candidates.

Full width: the 1.3B policy's width, tokens per frame and vision tower, with fewer layers of both and fewer frames, so that a
processor can do it. A further question is asked of the index in memory, and of the index on disk; seconds are those of the
processor, which other programs disturb less. From the measured parts the seconds at the full depth and 512 frames are computed:
in proportion to layers, frames and picks. Products are counted beside them, since a machine that can use all its arithmetic in
single steps too, which are bound by reading weights, would see that ratio instead.

Weights are random; what is picked does not matter for the time.

    python benchmarks/selecting.py [--parts small full-width] [--layers 4] [--candidates 24]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clips import make_file
from machine import keep
from refocus_video.config import PolicyConfig, RunConfig, SamplingConfig, VisionConfig, named_config
from refocus_video.data.haystack.generate import generate
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors.learned import FrameSelector, IndexedVideo
from refocus_video.selectors.store import IndexStore
from refocus_video.train.setup import new_policy
from refocus_video.types import Question

TARGET_S = 0.05
TARGET_SHARE = 0.02
PAPER_CANDIDATES, PAPER_BUDGET = 512, 32
FEW = 4
"""Candidates on which the parts are measured one by one."""
OPTIONS = ("A laptop and a phone", "A red card with a cross", "A map of the city", "Nothing, the slide is empty")


class QuarterWords:
    """A tokenizer without files: a token for every four characters, about as many as the published one gives."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """One token for every four characters."""
        return [sum(map(ord, text[start : start + 4])) % 1000 for start in range(0, len(text), 4)]

    def save_pretrained(self, save_directory: object) -> None:
        """There is nothing to write."""
        raise NotImplementedError


def question(number: int) -> Question:
    """A question of ordinary length, with options."""
    return Question(f"What does the speaker hold up right after slide number {number} is shown?", OPTIONS)


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    begun = clock()
    function()
    return clock() - begun


def measure_small(selector: FrameSelector, video: Path, frames: int, questions: int) -> dict[str, Any]:
    """Seconds of the first question and of each further one."""
    wall = time.perf_counter
    begun = wall()
    opened = selector.open(video)
    first = opened.select("Which shape is on the red card?", frames)
    first_s = wall() - begun
    texts = [f"Which shape is on card {number}?" for number in range(questions)]
    further = [seconds(partial(opened.select, text, frames), wall) for text in texts]
    begun = wall()
    again = selector.select(video, "Which shape is on the red card?", frames)
    recomputed_s = wall() - begun
    together_s = seconds(lambda: opened.select_many(texts, frames), wall)
    further_s = statistics.median(further)
    return {
        "candidates": len(opened.timeline),
        "first_question_s": round(first_s, 4),
        "further_question_s": round(further_s, 5),
        "slowest_further_question_s": round(max(further), 5),
        "each_of_several_together_s": round(together_s / questions, 5),
        "recomputed_s": round(recomputed_s, 4),
        "recomputed_over_further": round(recomputed_s / further_s, 1),
        "same_picks": first.positions.tolist() == again.positions.tolist(),
        "within_target": further_s <= TARGET_S,
    }


def small(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    config = RunConfig.load(named_config("haystack"), (f"train.seed={given.seed}",))
    selector = FrameSelector(new_policy(config))
    generate(folder, {"test": 1}, seed=given.seed, workers=0)
    make_file(folder / "long.mp4", given.seconds, keyframe_every=250)
    selector.select(folder / "test" / "000000.mp4", "warm up", 1)
    return {
        "target_further_question_s": TARGET_S,
        "haystack video": measure_small(selector, folder / "test" / "000000.mp4", given.frames, given.questions),
        "long video": measure_small(selector, folder / "long.mp4", given.frames, given.questions),
    }


@torch.no_grad()
def parts(selector: FrameSelector, video: Path, opened: IndexedVideo, budget: int) -> dict[str, float]:
    """Seconds a candidate of decoding, encoding and indexing; seconds of a question's tokens, and of a pick."""
    policy = selector.policy
    few = selector.sampling.model_copy(update={"max_frames": FEW})
    decode = seconds(lambda: FrameSelector(policy, sampling=few).candidates(video))
    frames = FrameSelector(policy, sampling=few).candidates(video).frames
    encode = seconds(lambda: policy.encode(frames))
    features = policy.encode(frames[:1]).expand(len(frames), -1, -1)[None]
    index = seconds(lambda: policy.index(features))
    ask = min(seconds(lambda: policy.ask(opened.indexed.index, [question(0)], torch.tensor([0]))) for _ in range(3))
    whole = min(seconds(lambda: opened.select(question(0), budget)) for _ in range(3))
    return {
        "decode": decode / len(frames),
        "encode": encode / len(frames),
        "index": index / len(frames),
        "ask": ask,
        "pick": (whole - ask) / budget,
    }


def products(config: PolicyConfig, frames: int, budget: int, asked_tokens: int) -> dict[str, float]:
    """Multiplications of the first question and of a further one, in units of 10¹²: those with weights, and attention."""
    vision, inner = config.vision, config.expand * config.d_model
    patches = (vision.image_size // vision.patch_size) ** 2
    tower_layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    tower = vision.num_hidden_layers * (patches * tower_layer + 2 * patches**2 * vision.hidden_size)
    projected = config.tokens_per_frame * (vision.hidden_size * config.d_model + config.d_model**2)
    channels = 2 * inner + 2 * config.d_state + inner // config.headdim
    token = config.n_layer * (config.d_model * (channels + inner) + 2 * inner * config.d_state)
    heads = 2 * config.d_model**2 * frames
    further = (asked_tokens + budget) * token + budget * config.d_model * (config.d_model + frames)
    first = frames * (tower + projected + config.tokens_per_frame * token) + heads + further
    return {"first_question": first / 1e12, "further_question": further / 1e12, "share": further / first}


def at_full_depth(part: dict[str, float], config: PolicyConfig, asked_tokens: int) -> dict[str, Any]:
    """Seconds at the paper's sizes, by proportion: computed, not measured."""
    full = PolicyConfig()
    layers, tower = full.n_layer / config.n_layer, full.vision.num_hidden_layers / config.vision.num_hidden_layers
    looked = PAPER_CANDIDATES * (part["decode"] + part["encode"] * tower + part["index"] * layers)
    further = (part["ask"] + part["pick"] * PAPER_BUDGET) * layers
    return {
        "what": f"computed from the parts above, not measured: {full.n_layer} + {full.vision.num_hidden_layers} layers, "
        f"{PAPER_CANDIDATES} candidates, {PAPER_BUDGET} picks",
        "first_question_s": round(looked + further, 1),
        "further_question_s": round(further, 2),
        "share": round(further / (looked + further), 6),
        "tera_products": rounded(products(full, PAPER_CANDIDATES, PAPER_BUDGET, asked_tokens)),
    }


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(number, 6) for name, number in numbers.items()}


def full_width(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The 1.3B width with fewer layers and frames."""
    config = PolicyConfig(n_layer=given.layers, vision=VisionConfig(num_hidden_layers=given.tower_layers))
    policy = FramePolicy(config, QuarterWords())
    store = IndexStore(folder / "indexes")
    sampling = SamplingConfig(max_frames=given.candidates)
    selector = FrameSelector(policy, sampling=sampling, store=store)
    video, budget = folder / "talk.mp4", given.frames
    make_file(video, -(-given.candidates // 4), keyframe_every=250)
    naming_s = seconds(lambda: selector.revision)
    begun = time.process_time()
    opened = selector.open(video)
    first = opened.select(question(0), budget)
    first_s = time.process_time() - begun
    others = [question(number) for number in range(1, given.further + 1)]
    memory = statistics.median(seconds(partial(opened.select, other, budget)) for other in others)
    disk = statistics.median(seconds(partial(selector.select, video, other, budget)) for other in others)
    assert selector.open(video).select(question(0), budget).positions.tolist() == first.positions.tolist()
    frames, asked_tokens = len(opened.timeline), len(QuarterWords().encode(_text(), add_special_tokens=False))
    part = parts(selector, video, opened, budget)
    return {
        "what": f"width {config.d_model}, d_state {config.d_state}, headdim {config.headdim}, {config.tokens_per_frame} "
        f"tokens a frame; {config.n_layer} of 48 backbone layers, {config.vision.num_hidden_layers} of 26 tower layers; float32",
        "candidates": frames,
        "picks": budget,
        "question_tokens": asked_tokens,
        "first_question_s": round(first_s, 3),
        "further_question_in_memory_s": round(memory, 4),
        "further_question_from_disk_s": round(disk, 4),
        "share_in_memory": round(memory / first_s, 5),
        "share_from_disk": round(disk / first_s, 5),
        "target_share": TARGET_SHARE,
        "within_target": max(memory, disk) / first_s <= TARGET_SHARE,
        "naming_the_weights_once_a_process_s": round(naming_s, 3),
        "seconds_a_candidate_a_question_and_a_pick": rounded(part),
        "tera_products": rounded(products(config, frames, budget, asked_tokens)),
        "at_full_depth": at_full_depth(part, config, asked_tokens),
    }


def _text() -> str:
    asked = question(1)
    return "\n".join((asked.text, *(f"A. {option}" for option in asked.options))) + "<|endoftext|>"


PARTS = {"small": small, "full-width": full_width}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--frames", type=int, default=8, help="the budget")
    parser.add_argument("--questions", type=int, default=20, help="small: further questions")
    parser.add_argument("--seconds", type=int, default=180, help="small: length of the long video")
    parser.add_argument("--layers", type=int, default=4, help="full width: backbone layers")
    parser.add_argument("--tower-layers", type=int, default=2, help="full width: vision tower layers")
    parser.add_argument("--candidates", type=int, default=24, help="full width: candidate frames")
    parser.add_argument("--further", type=int, default=3, help="full width: further questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    rows = {}
    for name in given.parts:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = PARTS[name](given, Path(folder))
    keep("selecting", {"settings": vars(given), "rows": rows})


if __name__ == "__main__":
    main()
