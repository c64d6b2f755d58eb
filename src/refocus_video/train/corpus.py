"""Haystack videos held in memory for training the tiny reference model: pictures, and which card each one shows."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from refocus_video.config import SamplingConfig
from refocus_video.data.haystack.generate import read_worlds
from refocus_video.data.haystack.world import World
from refocus_video.types import ByteArray, Candidates, IntArray
from refocus_video.video.candidates import load_candidates


@dataclass(frozen=True, slots=True)
class Corpus:
    """V videos of F candidate frames each."""

    worlds: tuple[World, ...]
    frames: ByteArray
    """(V, F, H, W, 3) uint8."""
    shown: IntArray
    """Position of the event seen on each candidate, -1 for none: (V, F)."""


def load_corpus(
    folder: Path,
    split: str,
    size: tuple[int, int],
    *,
    limit: int | None = None,
    workers: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Corpus:
    """Decode the candidate frames of a haystack split through the same reader as any other video."""
    worlds = read_worlds(folder / f"{split}-worlds.jsonl")[:limit]
    paths = [str(folder / split / f"{world.name.rpartition('-')[2]}.mp4") for world in worlds]
    pools: list[Candidates] = []
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool:
        for candidates in pool.map(partial(load_candidates, size=size, sampling=SamplingConfig()), paths, chunksize=8):
            pools.append(candidates)
            progress()
    shown = np.array([[w.at(int(i)) for i in c.frame_indices] for w, c in zip(worlds, pools, strict=True)])
    return Corpus(tuple(worlds), np.stack([c.frames for c in pools]), shown)
