"""Peak memory of indexing a video file against its number of candidate frames.

For each number of frames, in a process of its own: the highest resident memory, and the keys and values that are kept, which
are all that may grow. The others are compared: over the whole process, and over what it holds before it indexes. Each process
first indexes a few frames several times, so that what is loaded and reserved once is in every number alike. The policy has
random weights; the file is made here.

    python benchmarks/memory.py [--frames 128 256 512 1024 2048 4096 8192] [--d-model 64] [--layers 2] [--image-size 128]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machine import keep
from picking import Letters
from refocus_video.config import PolicyConfig, SamplingConfig, VisionConfig
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors.stream import group_size, index_video

UNIT = 1 if sys.platform == "darwin" else 1024
WARM_UP = 3
FPS = 25
FACTOR, TARGET = 8, 0.05
"""So many times the frames may cost so much more of the peak, keys and values aside."""


def new_policy(options: argparse.Namespace) -> FramePolicy:
    torch.manual_seed(options.seed)
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


def peak_bytes() -> int:
    """The most resident memory that this process ever had."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the process had before it became this program: its parent's memory
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def measure(video: str, frames: int, options: argparse.Namespace) -> dict[str, Any]:
    """Index ``frames`` frames in this process."""
    torch.set_num_threads(options.threads)
    policy = new_policy(options)
    at_rest = peak_bytes()
    for _ in range(WARM_UP):
        index_video(policy, video, SamplingConfig(fps=FPS, max_frames=2 * group_size(policy)))
    begun = time.perf_counter()
    timeline, index = index_video(policy, video, SamplingConfig(fps=FPS, max_frames=frames))
    seconds = time.perf_counter() - begun
    assert len(timeline) == frames, f"the file gives {len(timeline)} frames"
    kept = frames * 2 * policy.config.d_model * index.keys.element_size()
    assert kept == index.keys.nbytes + index.values.nbytes, "the index keeps a key and a value per frame"
    peak = peak_bytes()
    return {
        "frames": frames,
        "peak_mib": mib(peak),
        "keys_and_values_mib": mib(kept),
        "peak_without_them_mib": mib(peak - kept),
        "of_it_for_indexing_mib": mib(peak - kept - at_rest),
        "all_pictures_would_be_mib": mib(frames * options.image_size**2 * 3),
        "frames_per_s": round(frames / seconds, 1),
    }


def mib(number: int) -> float:
    return round(number / 2**20, 2)


def growth(rows: list[dict[str, Any]]) -> float:
    """The most that FACTOR times the frames (or up to that) cost in proportion, keys and values aside."""
    sizes = {row["frames"]: row["peak_without_them_mib"] for row in rows}
    pairs = [(a, b) for a in sizes for b in sizes if a < b <= FACTOR * a]
    return round(max((sizes[b] / sizes[a] - 1 for a, b in pairs), default=0.0), 4)


def write_video(path: Path, frames: int, side: int) -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (frames, 8, 8, 3), dtype=np.uint8)
    write_mp4(path, noise.repeat(side // 8, axis=1).repeat(side // 8, axis=2), FPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192])
    for name, default in {"d-model": 64, "layers": 2, "image-size": 128, "threads": 1, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--video", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.video:
        print(json.dumps(measure(options.video, options.frames[0], options)))
        return
    settings = {name: value for name, value in vars(options).items() if name not in ("video", "frames")}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "video.mp4"
        write_video(video, max(options.frames), 64)
        for frames in options.frames:
            command = [sys.executable, __file__, "--video", str(video), "--frames", str(frames), *words]
            rows.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
            print(json.dumps(rows[-1]), file=sys.stderr)
    found = growth(rows)
    facts = {f"growth_at_{FACTOR}_times_the_frames": found, "target": TARGET, "within_target": found <= TARGET}
    keep("memory", {"settings": settings, "rows": rows, **facts})


if __name__ == "__main__":
    main()
