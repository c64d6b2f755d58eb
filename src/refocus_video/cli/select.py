"""``refocus select``: pick, print, and draw the contact sheet; explain the picks where asked."""

from pathlib import Path
from typing import cast

import numpy as np

from refocus_video.assets import HAYSTACK_TINY, locate
from refocus_video.cli.console import notes, print_json, print_table
from refocus_video.cli.index import indexing_bar, ran_on
from refocus_video.config import SamplingConfig
from refocus_video.selectors.explain import Explanation
from refocus_video.selectors.learned import FrameSelector
from refocus_video.selectors.picking import Options, Picking, Strategy
from refocus_video.selectors.store import IndexStore, default_folder
from refocus_video.types import Question, Selection
from refocus_video.video.reader import VideoReader
from refocus_video.video.sheet import check_target, contact_sheet, heat_map, save_image

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
    forced: tuple[int, ...],
    fps: float,
    max_candidates: int,
    no_cache: bool,
    by_content: bool,
    device: str,
    sheet: Path | None,
    explain: bool,
    as_json: bool,
) -> None:
    """See ``refocus select --help``."""
    asked = Question(question, options)
    sampling = SamplingConfig.parse({"fps": fps, "max_frames": max_candidates}, "sampling")
    how: Options = {
        "strategy": cast(Strategy | None, strategy),
        "temperature": temperature,
        "samples": samples,
        "min_gap": min_gap,
        "seed": seed,
        "forced": forced,
    }
    picking = Picking(**how)
    path = sheet or Path(f"{video.stem}.frames.png")
    check_target(path)
    store = None if no_cache else IndexStore(default_folder(), by_content=by_content)
    selector = FrameSelector.from_pretrained(locate(policy, "policy"), device=device, sampling=sampling, store=store)
    if policy == HAYSTACK_TINY:
        notes.print(
            "policy haystack-tiny: trained on the generated videos of `refocus demo` only; "
            "on other videos its choice means little (use --policy)",
            markup=False,
            soft_wrap=True,
        )
    with indexing_bar(video.name) as on_progress:
        opened = selector.open(video, on_progress)
    explanation = opened.explain(asked, frames, **how) if explain else None
    selection = explanation.selection if explanation else opened.select(asked, frames, **how)
    # The most visited frames come with the share of subsets that hold them, all others with a probability.
    word = "share" if picking.resolved == "marginal" else "probability"
    draw_sheet(selection, path, word[0])
    map_path = path.with_name(f"{path.stem.removesuffix('.frames')}.picks{path.suffix}")
    if explanation:
        draw_map(explanation, map_path)
    if as_json:
        about = {"strategy": picking.resolved, "sheet": str(path), **ran_on(selector.policy)}
        told = {**explanation.to_json(), **about, "map": str(map_path)} if explanation else selection.to_json() | about
        print_json(told)
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
    if explanation:
        print_explanation(explanation)
        notes.print(f"heat map: {map_path}", markup=False, soft_wrap=True)
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


def draw_map(explanation: Explanation, path: Path) -> None:
    """Write a picture of how probable every candidate was at each pick."""
    selection = explanation.selection
    picture = heat_map(
        explanation.timeline.times,
        explanation.distributions,
        explanation.picks,
        notes=[
            f"p={p:.2g}  entropy {entropy:.1f}"
            for p, entropy in zip(explanation.probabilities, explanation.entropies, strict=True)
        ],
        title=f"{Path(selection.video).name}: {selection.question.text}",
    )
    save_image(picture, path)


def print_explanation(explanation: Explanation, runners_up: int = 3) -> None:
    """A table of the picks in their order, with what else was likely."""
    rows = []
    for k, (p, entropy) in enumerate(zip(explanation.probabilities, explanation.entropies, strict=True)):
        others = [c for c in explanation.top(k, runners_up + 1) if c["position"] != explanation.picks[k]][:runners_up]
        rows.append(
            [
                f"{k + 1}.",
                f"{explanation.timeline.times[explanation.picks[k]]:.2f}",
                f"{p:.4f}",
                f"{entropy:.2f}",
                ", ".join(f"{c['time']:.2f} s {c['probability']:.2g}" for c in others),
            ]
        )
    print_table(
        "What the policy thought at each pick",
        ["picked", "time (s)", "probability", "entropy (nats)", "most probable others"],
        rows,
    )


def _probabilities(selection: Selection) -> np.ndarray:
    assert selection.probabilities is not None, "the policy gives a probability with every pick"
    return selection.probabilities
