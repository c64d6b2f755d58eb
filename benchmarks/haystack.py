"""Haystack videos written per second. The time of 2000 is extrapolated from fewer, and said to be.

python benchmarks/haystack.py [--videos 200] [--workers 2] [--seed 0]
"""

import argparse
import tempfile
import time
from pathlib import Path

from machine import keep
from refocus_video.data.haystack.generate import generate

WANTED, TARGET_S = 2000, 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        paths = generate(Path(folder), {"train": given.videos}, seed=given.seed, workers=given.workers)
        seconds = time.perf_counter() - begun
        size = sum(path.stat().st_size for path in paths["train"].parent.rglob("*.mp4"))
    expected = seconds / given.videos * WANTED
    report = {
        "settings": vars(given),
        "seconds": round(seconds, 2),
        "videos_per_second": round(given.videos / seconds, 2),
        "kilobytes_per_video": round(size / given.videos / 1000, 1),
        f"seconds_for_{WANTED}": round(expected, 1),
        "extrapolated": given.videos != WANTED,
        "target_s": TARGET_S,
        "within_target": expected < TARGET_S,
    }
    keep("haystack", report)


if __name__ == "__main__":
    main()
