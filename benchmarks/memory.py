"""Peak memory of indexing a video file against its number of candidate frames.

Prints one JSON object: for each number of frames the highest resident memory of a process of its own, the keys and values
that it keeps, frames a second, and the growth from the first to the last, keys and values aside. The policy has random
weights; the file is made here. Each process first indexes a few frames several times, so that what is loaded and
reserved once is in every number alike.

    python benchmarks/memory.py --frames 256 2048 --d-model 64 --layers 2 --image-size 128
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from picking import Letters
from refocus_video.config import PolicyConfig, SamplingConfig, VisionConfig
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors.stream import group_size, index_video

UNIT = 1 if sys.platform == "darwin" else 1024
WARM_UP = 3


def new_policy(options: argparse.Namespace) -> FramePolicy:
    torch.manual_seed(0)
    vision = VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=options.image_size,
        patch_size=16,
    )
    config = PolicyConfig(
        vision=vision, d_model=options.d_model, n_layer=options.layers, d_state=16, headdim=16, vocab_size=64
    )
    return FramePolicy(config, Letters()).eval()


def measure(video: str, frames: int, options: argparse.Namespace) -> dict[str, Any]:
    """Index ``frames`` frames in this process."""
    policy = new_policy(options)
    for _ in range(WARM_UP):
        index_video(policy, video, SamplingConfig(fps=25, max_frames=4 * group_size(policy)))
    begun = time.perf_counter()
    timeline, index = index_video(policy, video, SamplingConfig(fps=25, max_frames=frames))
    seconds = time.perf_counter() - begun
    assert len(timeline) == frames, f"the file gives {len(timeline)} frames"
    return {
        "frames": frames,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT,
        "keys_and_values_bytes": index.keys.nbytes + index.values.nbytes,
        "pictures_bytes": frames * options.image_size**2 * 3,
        "frames_per_s": round(frames / seconds, 1),
    }


def write_video(path: Path, frames: int, side: int) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (frames, 8, 8, 3), dtype=np.uint8)
    write_mp4(path, noise.repeat(side // 8, axis=1).repeat(side // 8, axis=2), 25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--video", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.video:
        print(json.dumps(measure(options.video, options.frames[0], options)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        write_video(video, max(options.frames), 64)
        words = ["--d-model", options.d_model, "--layers", options.layers, "--image-size", options.image_size]
        for frames in options.frames:
            command = [sys.executable, __file__, "--video", str(video), "--frames", str(frames), *map(str, words)]
            rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    first, last = (row["peak_bytes"] - row["keys_and_values_bytes"] for row in (rows[0], rows[-1]))
    facts = {
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seed": 0,
        "settings": {k: v for k, v in vars(options).items() if k != "video"},
    }
    print(json.dumps({**facts, "rows": rows, "growth": round(last / first - 1, 4)}, indent=2))


if __name__ == "__main__":
    main()
