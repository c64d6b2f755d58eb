"""``refocus select``: pick, print, and draw the contact sheet."""

from pathlib import Path
from typing import cast

import numpy as np

from refocus_video.assets import HAYSTACK_TINY, locate
from refocus_video.cli.console import notes, print_json, print_table
from refocus_video.cli.index import indexing_bar
from refocus_video.config import SamplingConfig
from refocus_video.selectors.learned import FrameSelector
from refocus_video.selectors.picking import Picking, Strategy
from refocus_video.selectors.store import IndexStore, default_folder
from refocus_video.types import Question, Selection
from refocus_video.video.reader import VideoReader
from refocus_video.video.sheet import check_target, contact_sheet, save_image

THUMBNAIL = 320
"""Longer side of a picture on the contact sheet, in pixels."""


def run_select(
    video: Path,
    question: str,
    options: tuple[str, ...],
    *,
    frames: int,
    policy: str,
    temperature: float | None,
    seed: int,
    strategy: str | None,
    samples: int | None,
    min_gap: float,
    fps: float,
    max_candidates: int,
    no_cache: bool,
    by_content: bool,
    sheet: Path | None,
    as_json: bool,
) -> None:
    """See ``refocus select --help``."""
    asked = Question(question, options)
    sampling = SamplingConfig.parse({"fps": fps, "max_frames": max_candidates}, "sampling")
    picking = Picking(cast(Strategy | None, strategy), temperature, samples, min_gap)
    path = sheet or Path(f"{video.stem}.frames.png")
    check_target(path)
    store = None if no_cache else IndexStore(default_folder(), by_content=by_content)
    selector = FrameSelector.from_pretrained(locate(policy, "policy"), sampling=sampling, store=store)
    if policy == HAYSTACK_TINY:
        notes.print(
            "policy haystack-tiny: trained on the generated videos of `refocus demo` only; "
            "on other videos its choice means little (use --policy)",
            markup=False,
            soft_wrap=True,
        )
    with indexing_bar(video.name) as on_progress:
        opened = selector.open(video, on_progress)
    selection = opened.select(
        asked,
        frames,
        temperature=temperature,
        seed=seed,
        strategy=picking.strategy,
        samples=samples,
        min_gap=min_gap,
    )
    # The most visited frames come with the share of subsets that hold them, all others with a probability.
    word = "share" if picking.resolved == "marginal" else "probability"
    draw_sheet(selection, path, word[0])
    if as_json:
        print_json({**selection.to_json(), "strategy": picking.resolved, "sheet": str(path)})
        return
    print_table(
        f"{len(selection)} frames of {video.name} for: {question}",
        ["frame index", "time (s)", word, "picked"],
        [
            [str(index), f"{time:.2f}", f"{probability:.4f}", f"{rank + 1}."]
            for index, time, probability, rank in zip(
                selection.frame_indices, selection.times, _probabilities(selection), selection.order, strict=True
            )
        ],
    )
    notes.print(f"contact sheet: {path}", markup=False, soft_wrap=True)


def draw_sheet(selection: Selection, path: Path, letter: str = "p") -> None:
    """Write the picked frames, larger than the policy saw them, with index, time and probability or share."""
    with VideoReader(selection.video) as reader:
        scale = min(1.0, THUMBNAIL / max(reader.info.width, reader.info.height))
        size = (max(1, round(reader.info.height * scale)), max(1, round(reader.info.width * scale)))
        pictures = reader.read(selection.frame_indices, size)
    captions = [
        f"#{index}  {time:.2f} s  {letter}={probability:.2g}"
        for index, time, probability in zip(
            selection.frame_indices, selection.times, _probabilities(selection), strict=True
        )
    ]
    save_image(contact_sheet(list(pictures), captions, columns=min(4, len(selection))), path)


def _probabilities(selection: Selection) -> np.ndarray:
    assert selection.probabilities is not None, "the policy gives a probability with every pick"
    return selection.probabilities
