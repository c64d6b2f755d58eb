"""The filter: seconds for 2 000 pairs about tiny videos, and whether a run killed at random moments ends in the same bytes.

Runs alternate between one process and two, which torchrun starts; each killed one leaves what the next goes on from.

python benchmarks/filtering.py [--pairs 2000] [--kills 20] [--videos 150] [--seed 0]
"""

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from machine import keep
from refocus_video.data.haystack.generate import generate

TARGET_S = 120.0
QUESTIONS_PER_VIDEO = 6
OUTPUTS = ("kept.jsonl", "variances.jsonl")
COMMAND = "from refocus_video.cli.main import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--videos", type=int, default=150, help="of those, as many are filtered in the killed run")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = max(given.videos, math.ceil(given.pairs / QUESTIONS_PER_VIDEO))
        questions = generate(folder / "data", {"train": videos}, seed=given.seed)["train"]
        lines = questions.read_text(encoding="utf-8").splitlines(keepends=True)
        timed, few = questions.with_name("timed.jsonl"), questions.with_name("few.jsonl")
        timed.write_text("".join(lines[: given.pairs]), encoding="utf-8")
        few.write_text("".join(lines[: QUESTIONS_PER_VIDEO * given.videos]), encoding="utf-8")
        seconds = {}
        for processes in (1, 2):
            begun = time.perf_counter()
            assert start(timed, folder / f"timed-{processes}", processes).wait() == 0
            seconds[f"seconds_{processes}_processes"] = round(time.perf_counter() - begun, 1)
        one, two = (contents(folder / f"timed-{processes}") for processes in (1, 2))
        report = {
            "settings": vars(given),
            **seconds,
            "target_s": TARGET_S,
            "within_target": min(seconds.values()) < TARGET_S,
            "same_bytes_from_2_processes": one == two,
            **killed(few, folder, given.kills, random.Random(given.seed)),
        }
    keep("filtering", report)


def killed(questions: Path, folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill a run at random moments, let it finish, and compare with one that was left alone."""
    assert start(questions, folder / "whole", 1).wait() == 0
    output = folder / "killed"
    after: list[int] = []
    while len(after) < kills:
        process = start(questions, output, 1 + len(after) % 2)
        wanted = records(output) + rng.randint(0, 4)
        while records(output) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        if process.poll() is not None:
            raise SystemExit(f"the run was over after {len(after)} kills; give more --videos")
        kill(process)
        after.append(records(output))
    assert start(questions, output, 1).wait() == 0
    measured = [line for path in (output / "measured").iterdir() for line in path.open("rb")]
    return {
        "kills": kills,
        "videos_measured_at_each_kill": after,
        "videos_measured_twice": len(measured) - len({line.split(b'"rows"')[0] for line in measured}),
        "same_bytes_after_kills": contents(output) == contents(folder / "whole"),
    }


def start(questions: Path, output: Path, processes: int) -> "subprocess.Popen[bytes]":
    """Start a run of the command, with so many processes."""
    launcher = ["-c", COMMAND]
    if processes > 1:
        script = questions.with_name("run.py")
        script.write_text(COMMAND, encoding="utf-8")
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(script)]
    arguments = ["filter", str(questions), "--config", "haystack", "--output", str(output)]
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a run with all of its processes, which torchrun puts into sessions of their own."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family)
    process.wait()


def records(output: Path) -> int:
    """Videos measured so far."""
    return sum(path.read_bytes().count(b"\n") for path in (output / "measured").glob("rank-*.jsonl"))


def contents(output: Path) -> list[bytes]:
    """What a run has written, without the name of its folder."""
    return [(output / name).read_bytes().replace(bytes(output), b"") for name in OUTPUTS]


if __name__ == "__main__":
    main()
