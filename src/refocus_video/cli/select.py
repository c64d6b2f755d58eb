"""``refocus select``: pick, print, and draw the contact sheet; explain the picks where asked."""

from pathlib import Path
from typing import cast

import numpy as np

from refocus_video.assets import HAYSTACK_TINY, locate
from refocus_video.cli.console import notes, print_json, print_table
from refocus_video.cli.index import indexing_bar, ran_on
from refocus_video.config import SamplingConfig
from refocus_video.hub import check_name
from refocus_video.selectors.explain import Explanation
from refocus_video.selectors.options import Options, Picking, Strategy
from refocus_video.types import Question, Selection
from refocus_video.video.sheet import check_target, contact_sheet, heat_map, save_image
from refocus_video.video.source import check_file

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
    if sheet is not None:
        check_target(sheet)
    source = locate(policy, "policy")
    check_name(source, "policy folder")
    check_file(video)
    how: Options = {
        "strategy": cast(Strategy | None, strategy),
        "temperature": temperature,
        "samples": samples,
        "min_gap": min_gap,
        "seed": seed,
        "forced": forced,
    }
    picking = Picking(**how)
    # Only now, when all that can be told without it was told: torch takes seconds to import.
    from refocus_video.selectors.learned import FrameSelector
    from refocus_video.selectors.store import IndexStore, default_folder

    store = None if no_cache else IndexStore(default_folder(), by_content=by_content)
    selector = FrameSelector.from_pretrained(source, device=device, sampling=sampling, store=store)
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
    if len(selection) < frames:
        notes.print(
            f"asked for {frames} frames; the video gives {len(selection)} candidates, all of them are selected",
            soft_wrap=True,
        )
    # The most visited frames come with the share of subsets that hold them, all others with a probability.
    word = "share" if picking.resolved == "marginal" else "probability"
    map_path = None
    if sheet is not None:
        draw_sheet(selection, sheet, word[0])
        if explanation:
            map_path = sheet.with_name(f"{sheet.stem.removesuffix('.frames')}.picks{sheet.suffix}")
            draw_map(explanation, map_path)
    if as_json:
        about = {"strategy": picking.resolved, "sheet": sheet and str(sheet), **ran_on(selector.policy)}
        told = selection.to_json() | about
        if explanation:
            told = {**explanation.to_json(), **about, "map": map_path and str(map_path)}
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
    if word == "probability":
        notes.print(against_chance(selection, len(opened.timeline)), markup=False, soft_wrap=True)
    if explanation:
        print_explanation(explanation)
        if explanation.remark:
            notes.print(explanation.remark, markup=False, soft_wrap=True)
    if map_path:
        notes.print(f"heat map: {map_path}", markup=False, soft_wrap=True)
    if sheet is not None:
        notes.print(f"contact sheet: {sheet}", markup=False, soft_wrap=True)


def against_chance(selection: Selection, candidates: int) -> str:
    """How far the first pick's probability is from what each candidate has where the policy has no opinion."""
    first = float(_probabilities(selection)[selection.order.tolist().index(0)])
    return f"first pick: probability {first:.4f}; even chance among {candidates} candidates is {1 / candidates:.4f}"


def draw_sheet(selection: Selection, path: Path, letter: str = "p") -> None:
    """Write the picked frames under the question: rank, index, time and probability or share of each."""
    from refocus_video.video.reader import VideoReader

    with VideoReader(selection.video) as reader:
        scale = min(1.0, THUMBNAIL / max(reader.info.width, reader.info.height))
        size = (max(1, round(reader.info.height * scale)), max(1, round(reader.info.width * scale)))
        pictures = reader.read(selection.frame_indices, size)
    captions = [
        f"{rank + 1}.  #{index}  {time:.2f} s  {letter}={probability:.2g}"
        for index, time, probability, rank in zip(
            selection.frame_indices, selection.times, _probabilities(selection), selection.order, strict=True
        )
    ]
    save_image(
        contact_sheet(list(pictures), captions, columns=min(4, len(selection)), title=selection.question.text), path
    )


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
