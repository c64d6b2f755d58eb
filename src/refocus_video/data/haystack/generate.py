"""Writes a haystack data set: H.264 videos, one JSONL of examples per split, and what was drawn into each video.

``DIR/train/000000.mp4 …``, ``DIR/train.jsonl`` (examples), ``DIR/train-worlds.jsonl`` (events), the same for ``validation`` and
``test``, and ``DIR/manifest.json``. Every video depends only on (seed, split, number), so a larger data set begins with the
smaller one, and the splits never share a video.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from refocus_video.data.examples import write_examples
from refocus_video.data.haystack import render
from refocus_video.data.haystack.world import (
    HOPS,
    Event,
    Probe,
    World,
    ask,
    needed_events,
    sample_world,
)
from refocus_video.errors import DataError
from refocus_video.files import replacing, write_json, write_jsonl
from refocus_video.types import ByteArray, Example, Span

SPLITS = ("train", "validation", "test")
NUM_FRAMES, FPS = 128, 8
QUESTIONS_PER_KIND = 2

REPEATABLE = "mbtree=0:rc-lookahead=0"
"""With x264's macroblock tree the same pictures gave other bytes now and then on a busy machine (1 to 12 of 100 files)."""

Backdrop = Callable[[np.random.Generator, int], ByteArray]
"""(rng, number of frames) -> pictures (frames, SIZE, SIZE, 3) uint8: what the cards are drawn over."""


def generate(
    folder: Path,
    sizes: dict[str, int],
    *,
    seed: int = 0,
    backdrop: Backdrop = render.background,
    workers: int | None = None,
    progress: Callable[[str], None] = lambda split: None,
) -> dict[str, Path]:
    """Write the splits named in ``sizes`` and return the path of each one's examples.

    Videos that already lie in ``folder`` from the same seed are kept, so an interrupted run goes on where it stopped.

    Args:
        folder: where to write.
        sizes: number of videos of each split.
        seed: any non-negative integer.
        backdrop: what the cards are drawn over; must be picklable when ``workers`` is not 0.
        workers: processes; 0 runs in this one, None takes one per core.
        progress: called with the split after every video.

    Raises:
        DataError: for an unknown split, a size below 1, or a folder that holds another data set.
    """
    unknown = sorted(set(sizes) - set(SPLITS))
    if seed < 0:
        raise DataError(f"the seed must not be negative, found {seed}")
    if unknown or any(size < 1 for size in sizes.values()):
        raise DataError(f"sizes must be positive numbers of {', '.join(SPLITS)}; found {sizes}")
    recipe = {"generator": 2, "seed": seed, "backdrop": getattr(backdrop, "__name__", type(backdrop).__name__)}
    _check_recipe(folder / "manifest.json", recipe)
    write_json(folder / "manifest.json", recipe)
    paths: dict[str, Path] = {}
    for split, size in sizes.items():
        make = partial(_write_video, folder, split, seed, backdrop)
        worlds: list[World] = []
        for world in _run(make, size, os.cpu_count() or 1 if workers is None else workers):
            worlds.append(world)
            progress(split)
        examples = itertools.chain.from_iterable(examples_of(world, folder / split, seed) for world in worlds)
        paths[split] = folder / f"{split}.jsonl"
        write_jsonl(folder / f"{split}-worlds.jsonl", (asdict(world) for world in worlds))
        write_examples(paths[split], examples)
    return paths


def read_worlds(path: Path) -> list[World]:
    """Read what :func:`generate` drew into the videos of a split."""
    if not path.is_file():
        raise DataError(f"no {path.name} in {path.parent}; make the data with `refocus haystack generate`")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [World(row["name"], tuple(Event(**e) for e in row["events"]), row["num_frames"], row["fps"]) for row in rows]


def examples_of(world: World, folder: Path, seed: int) -> list[Example]:
    """Two questions of every kind about one video, about different events."""
    rng = np.random.default_rng([seed, _number(world), 1])
    examples = []
    for kind, hops in HOPS.items():
        for event in rng.permutation(len(world.events))[:QUESTIONS_PER_KIND]:
            probe = Probe(kind, int(event))
            question, answer = ask(world, probe, rng)
            examples.append(
                Example(
                    id=f"{world.name}-{kind}-{event}",
                    video=str(folder / f"{_stem(world)}.mp4"),
                    question=question,
                    answer=answer,
                    evidence=tuple(_span(world, i) for i in needed_events(world, probe)),
                    question_type=hops,
                    metadata={"kind": kind, "events": [asdict(_span(world, i)) for i in range(len(world.events))]},
                )
            )
    return examples


def write_mp4(path: Path, pictures: ByteArray, fps: int) -> None:
    """Write RGB pictures (frames, H, W, 3) as an H.264 mp4, atomically."""
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "20", "g": "48", "threads": "1", "x264-params": REPEATABLE}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _write_video(folder: Path, split: str, seed: int, backdrop: Backdrop, number: int) -> World:
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    world = sample_world(f"{split}-{number:06d}", rng, num_frames=NUM_FRAMES, fps=FPS)
    path = folder / split / f"{_stem(world)}.mp4"
    if not path.exists():
        write_mp4(path, render.draw(world, backdrop(rng, NUM_FRAMES), rng), FPS)
    return world


def _run(make: Callable[[int], World], count: int, workers: int) -> Iterator[World]:
    if workers == 0:
        yield from map(make, range(count))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(make, range(count), chunksize=8)


def _check_recipe(manifest: Path, recipe: dict[str, Any]) -> None:
    if not manifest.exists():
        return
    found = json.loads(manifest.read_text(encoding="utf-8"))
    if found != recipe:
        raise DataError(
            f"{manifest.parent} holds another data set ({found}, asked for {recipe}); choose another folder"
        )


def _stem(world: World) -> str:
    return world.name.rpartition("-")[2]


def _number(world: World) -> int:
    split, _, number = world.name.rpartition("-")
    return SPLITS.index(split) * 10_000_000 + int(number)


def _span(world: World, event: int) -> Span:
    """From the first to the last frame on which the card is seen, in seconds."""
    shown = world.events[event]
    return Span(shown.start / world.fps, (shown.end - 1) / world.fps)
