"""Processor time of reading uniform frames of a file with this package, decord and torchcodec: the same frames, the same cores.

Each reader runs in a process of its own with one decoder thread, and the numbers drawn into the frames are checked. Files are
made once, which takes a quarter of an hour, and kept. The 10-minute file gives 512 frames, as many as the paper's policy
takes; the shorter ones give as many as keeps that distance between frames.

    python benchmarks/decode.py [--clips 720p references long-gop hevc 4k] [--repeats 3] [--folder /tmp/refocus-clips]
        [--python decord=ENV/bin/python] [--library-path torchcodec=FOLDER_OF_FFMPEG_LIBRARIES]

A reader that cannot be imported is reported and left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import readers
from clips import CLIPS, Clip
from machine import keep

FRAMES, LONGEST = 512, 600
TARGET, TARGET_CLIP = 1.5, "720p"
COMPETITORS = ("decord", "decord2", "torchcodec")


def wanted(clip: Clip) -> int:
    """How many frames to read: 512 of ten minutes, and as many per second of shorter files."""
    return max(2, FRAMES * clip.seconds // LONGEST)


def measure(name: str, clip: Clip, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One read in a process of its own."""
    command = [given.python.get(name, sys.executable), readers.__file__, name, str(path)]
    command += ["--frames", str(clip.frames), "--count", str(wanted(clip)), "--size", str(given.size)]
    environment = dict(os.environ)
    if name in given.library_path:
        environment["LD_LIBRARY_PATH"] = given.library_path[name]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"reader": name, "problem": f"failed: {last[:200]}"}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(clip: Clip, path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """All readers on one file, in turns, so that a load on the machine meets all of them."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in given.readers}
    for _ in range(given.repeats):
        for name, rows in runs.items():
            if not rows or "problem" not in rows[-1]:
                rows.append(measure(name, clip, path, given))
                print(f"{clip.title}: {json.dumps(rows[-1])}", file=sys.stderr)
    table = {name: summary(rows, wanted(clip)) for name, rows in runs.items()}
    ours = table["refocus"].get("cpu_s")
    ratios = {
        name: round(row["cpu_s"] / ours, 2)
        for name, row in table.items()
        if ours and row.get("exact") and name != "refocus"
    }
    best = min((ratios[name] for name in COMPETITORS if name in ratios), default=None)
    return {
        "clip": clip.title,
        "seconds": clip.seconds,
        "mbit_per_s": round(path.stat().st_size * 8 / clip.seconds / 1e6, 2),
        "wanted_frames": wanted(clip),
        "readers": table,
        "cpu_over_ours": ratios,
        "best_competitor_over_ours": best,
    }


def summary(rows: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """The median run of a reader, or why there is none."""
    last = rows[-1]
    if "problem" in last:
        return {"problem": last["problem"]}
    times = [row["cpu_s"] for row in rows]
    return {
        "version": last["version"],
        "cpu_s": statistics.median(times),
        "fastest_cpu_s": min(times),
        "exact": all(row["right_frames"] == count for row in rows),
        "right_frames": last["right_frames"],
        "peak_mib": max((row["peak_mib"] for row in rows if row["peak_mib"]), default=None),
    }


def pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if name not in readers.READERS or not value:
        raise argparse.ArgumentTypeError(
            f"expected READER=VALUE with one of {', '.join(readers.READERS)}; found {text!r}"
        )
    return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=list(CLIPS))
    parser.add_argument("--readers", nargs="+", choices=readers.READERS, default=["refocus", *COMPETITORS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=384, help="height and width of the pictures read")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "refocus-clips")
    parser.add_argument("--python", type=pair, action="append", default=[], help="READER=interpreter that has it")
    parser.add_argument(
        "--library-path", type=pair, action="append", default=[], help="READER=folder with FFmpeg's libraries"
    )
    given = parser.parse_args()
    given.python, given.library_path = dict(given.python), dict(given.library_path)
    given.readers = ["refocus", *(name for name in given.readers if name != "refocus")]
    given.folder.mkdir(parents=True, exist_ok=True)
    rows = {name: compare(CLIPS[name], CLIPS[name].path(given.folder), given) for name in given.clips}
    ratio = rows.get(TARGET_CLIP, {}).get("best_competitor_over_ours")
    target = {
        "clip": TARGET_CLIP,
        "best_competitor_over_ours": TARGET,
        "reached": None if ratio is None else ratio >= TARGET,
    }
    settings = {"repeats": given.repeats, "size": given.size, "decoder_threads": 1}
    keep("decode", {"settings": settings, "target": target, "rows": rows})


if __name__ == "__main__":
    main()
