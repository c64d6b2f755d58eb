"""Time of a question about a video: the first one, which looks at the video, against further ones, which do not.

Two files are made here: a haystack video of 16 seconds and one of 1280×720 pixels long enough for the paper's 512 candidates. The
policy has the haystack sizes and random weights; what is picked does not matter for the time.

    python benchmarks/selecting.py [--frames 8] [--questions 20] [--seconds 180]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from clips import make_file
from machine import keep
from refocus_video.config import RunConfig, named_config
from refocus_video.data.haystack.generate import generate
from refocus_video.selectors.learned import FrameSelector
from refocus_video.train.setup import new_policy

TARGET_S = 0.05


def measure(selector: FrameSelector, video: Path, frames: int, questions: int) -> dict[str, Any]:
    """Seconds of the first question and of each further one."""
    begun = time.perf_counter()
    opened = selector.open(video)
    first = opened.select("Which shape is on the red card?", frames)
    first_s = time.perf_counter() - begun
    seconds = []
    for number in range(questions):
        begun = time.perf_counter()
        opened.select(f"Which shape is on card {number}?", frames)
        seconds.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    again = selector.select(video, "Which shape is on the red card?", frames)
    recomputed_s = time.perf_counter() - begun
    further_s = statistics.median(seconds)
    return {
        "candidates": len(opened.timeline),
        "first_question_s": round(first_s, 4),
        "further_question_s": round(further_s, 5),
        "slowest_further_question_s": round(max(seconds), 5),
        "recomputed_s": round(recomputed_s, 4),
        "recomputed_over_further": round(recomputed_s / further_s, 1),
        "same_picks": first.positions.tolist() == again.positions.tolist(),
        "within_target": further_s <= TARGET_S,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=8, help="the budget")
    parser.add_argument("--questions", type=int, default=20, help="further questions")
    parser.add_argument("--seconds", type=int, default=180, help="length of the long video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config = RunConfig.load(named_config("haystack"), (f"train.seed={given.seed}",))
    selector = FrameSelector(new_policy(config))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, {"test": 1}, seed=given.seed, workers=0)
        make_file(folder / "long.mp4", given.seconds, keyframe_every=250)
        selector.select(folder / "test" / "000000.mp4", "warm up", 1)
        rows = {
            "haystack video": measure(selector, folder / "test" / "000000.mp4", given.frames, given.questions),
            "long video": measure(selector, folder / "long.mp4", given.frames, given.questions),
        }
    keep("selecting", {"settings": vars(given), "target_further_question_s": TARGET_S, "rows": rows})


if __name__ == "__main__":
    main()
