"""The work of `refocus reference check`, from a question file to a verdict (``evaluate/reference_check.py``)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from refocus_video.config import RunConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.examples import fingerprint, read_examples
from refocus_video.device import resolve
from refocus_video.errors import ConfigError, check_budget
from refocus_video.evaluate.reference_check import Checking, check
from refocus_video.evaluate.reference_page import write_page
from refocus_video.evaluate.reference_summary import summarise
from refocus_video.evaluate.reference_verdict import verdict
from refocus_video.files import read_settings, write_json
from refocus_video.pipeline import none_usable
from refocus_video.reference.base import ReferenceModel
from refocus_video.train.filtering import reference_fingerprint
from refocus_video.train.setup import load_reference, usage_of
from refocus_video.types import Example, Progress

ROWS, SETTINGS, RESULTS, PAGE = "rows.jsonl", "settings.json", "check.json", "check.html"


def check_reference(
    questions: Path,
    output: Path,
    config: RunConfig,
    progress: Progress,
    *,
    frames: int = 8,
    subsets: int = 8,
    videos: int | None = None,
    seed: int = 0,
    reference: ReferenceModel | None = None,
) -> dict[str, Any]:
    """Measure whether the configured reference model can teach.

    Writes ``rows.jsonl``, ``check.json`` (what is returned) and ``check.html``.

    Args:
        questions: JSONL file.
        output: the folder.
        config: its ``sampling`` and ``reference``.
        progress: shows how far this is.
        frames: in each subset.
        subsets: random subsets of each question.
        videos: look at so many, drawn at random; at all of them if None.
        seed: of the draws.
        reference: the model, if it is loaded already.

    Raises:
        DataError: if a question is malformed, or no video can be used.
        ConfigError: if the folder holds rows of something else.
        ReferenceModelError: if the model cannot score the first video's questions.
    """
    if min(frames, subsets, videos if videos is not None else 1) < 1:
        raise ConfigError("--frames, --subsets and --videos must be at least 1")
    if config.sampling.max_frames:
        check_budget(frames, config.sampling.max_frames)
    examples = _some(read_examples(questions), videos, seed)
    if reference is None:
        reference = load_reference(config.reference, str(resolve(config.compute.device)))
    settings = {
        "questions": fingerprint(examples),
        "sampling": config.sampling.model_dump(mode="json"),
        "reference": config.reference.model_dump(mode="json"),
        "weights": reference_fingerprint(reference),
        "frames": frames,
        "subsets": subsets,
        "seed": seed,
    }
    _check_begun(output, settings)
    checking = Checking(reference, config.reference, config.sampling, frames, subsets, seed=seed)
    with progress("showing evidence", len(by_video(examples))) as advance:
        rows = check(examples, checking, output / ROWS, advance)
    measured = [row for row in rows if "cells" in row]
    if not measured:
        raise none_usable({row["video"]: row["error"] for row in rows})
    summary = summarise(rows, checking.letters)
    seen = {row["video"] for row in measured}
    failed = [row for row in rows if "error" in row]
    names = [model.model for model in (config.reference, *config.reference.ensemble)]
    results = {
        "model": " + ".join(names),
        **verdict(summary, config.reference.reward),
        "asked": len(examples),
        "measured": len(measured),
        "videos": len(seen),
        "with_evidence": sum(any(cell["kind"] == "all" for cell in row["cells"]) for row in measured),
        "failures": {row["video"]: row["error"] for row in failed if row["video"] not in seen},
        "unscored": {row["id"]: row["error"] for row in failed if row["video"] in seen},
        **summary,
        "usage": usage_of(reference),
        "settings": settings,
        "page": str(output / PAGE),
    }
    write_json(output / RESULTS, results)
    write_page(output / PAGE, results)
    return results


def _some(examples: list[Example], videos: int | None, seed: int) -> list[Example]:
    """The examples of some videos, in their order."""
    names = list(by_video(examples))
    if videos is None or videos >= len(names):
        return examples
    kept = {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:videos]}
    return [example for example in examples if example.video in kept]


def _check_begun(output: Path, settings: dict[str, Any]) -> None:
    """Note what a folder's rows are of, or find it the same as before."""
    path, now = output / SETTINGS, json.loads(json.dumps(settings))
    if (output / ROWS).exists():
        found = read_settings(path) if path.exists() else {}
        different = [key for key in now if found.get(key) != now[key]]
        if different:
            raise ConfigError(
                f"{output} holds a check of other {', '.join(different)}; use another --output or the same settings"
            )
    write_json(path, now)
