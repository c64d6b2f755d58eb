"""The filter command's work, from a question file to those worth training on (METHOD §6), at any size.

The question file is read as a stream; videos are shared out among the processes that a launcher has started, on one machine or on
several that share the output folder; each appends what it has measured to a file of its own (``measured/``), and the first process
puts the results together at the end. Running the same command again, with any number of processes, goes on where it stopped.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from refocus_video.config import RunConfig
from refocus_video.data.examples import dump_example
from refocus_video.data.parquet import NUMBER, NUMBERS, PAIRS, TEXT, TEXTS, WHOLE, check_parquet, write_parquet
from refocus_video.data.questions import QuestionFile
from refocus_video.errors import ConfigError
from refocus_video.files import read_settings, write_json, write_jsonl
from refocus_video.pipeline import new_accelerator, none_usable
from refocus_video.reference.base import ReferenceModel
from refocus_video.train.features import FeatureStore, reference_viewer
from refocus_video.train.filter import choose
from refocus_video.train.filter_report import Counts, draw_histogram, histogram
from refocus_video.train.filtering import Look, keeping_look, measure, passing_look, reference_fingerprint, stored_look
from refocus_video.train.measured import Parts, Record
from refocus_video.train.setup import load_reference, usage_of
from refocus_video.train.views import ViewStore
from refocus_video.types import Example, Progress

PATIENCE = timedelta(days=14)
"""How long a process that has finished its share waits for the others."""
PACKAGES = ("refocus-video", "torch", "transformers", "accelerate", "av", "numpy")

MEASURED_COLUMNS = {
    "id": TEXT,
    "variance": NUMBER,
    "mean": NUMBER,
    "accuracy": NUMBER,
    "margins": NUMBERS,
    "error": TEXT,
}
KEPT_COLUMNS = {"id": TEXT, "video": TEXT, "question": TEXT, "options": TEXTS, "answer": WHOLE, "answers": TEXTS, "evidence": PAIRS,
                "question_type": TEXT, "metadata": TEXT}  # fmt: skip


def filter_questions(
    questions: Path,
    output: Path,
    config: RunConfig,
    progress: Progress,
    *,
    store: FeatureStore | None = None,
    features: Path | None = None,
    parquet: bool = False,
) -> dict[str, Any]:
    """Measure the reward variance of every question and keep those above τ, or the largest N.

    Writes ``kept.jsonl`` and ``variances.jsonl`` in the order of the questions, ``filter.json`` (the numbers returned, without
    ``usage``: what servers were asked this time), ``histogram.png``, ``manifest.json`` and ``config.json``.

    Args:
        questions: JSONL file of questions, with options or without.
        output: the folder; holds the measurements as well.
        config: its ``sampling``, ``reference`` and ``filter``.
        progress: shows how far this process is.
        store: brings the reference model and what it has seen, which a training run goes on with.
        features: where to keep what the reference model sees of the videos; it is dropped if left out.
        parquet: write ``kept.parquet`` and ``variances.parquet`` too.

    Raises:
        DataError: if a question is malformed, or no video can be used.
        ConfigError: if the folder holds measurements of something else.
    """
    if parquet:
        check_parquet()
    asked = QuestionFile(questions)
    accelerator = new_accelerator(output, config.compute.device, patience=PATIENCE)
    reference = store.reference if store else load_reference(config.reference, str(accelerator.device))
    measured = {
        "questions": asked.fingerprint,
        "sampling": config.sampling.model_dump(mode="json"),
        "reference": config.reference.model_dump(mode="json"),
        "weights": reference_fingerprint(reference),
        "filter": config.filter.model_dump(mode="json", include={"budget", "seed"}),
    }
    check_measured(output, measured)
    parts = Parts(output / "measured")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_json(output / "manifest.json", {"measured": measured})
        parts.mend()
    accelerator.wait_for_everyone()
    _measure_share(asked, parts, accelerator, _look(store, features, reference, config), reference, config, progress)
    if accelerator.is_main_process:
        manifest = {"measured": measured, "questions": str(questions), "processes": accelerator.num_processes}
        _finish(asked, parts, output, config, manifest, parquet)
    accelerator.wait_for_everyone()
    numbers: dict[str, Any] = json.loads((output / "filter.json").read_text(encoding="utf-8"))
    return numbers | {"usage": _added_up(gather_object(usage_of(reference)))}


def _added_up(usage: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What several processes asked of servers, one row an endpoint."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for row in usage:
        sums = rows.setdefault((row["model"], row["url"]), dict.fromkeys(row, 0))
        sums |= {name: row[name] if isinstance(row[name], str) else sums[name] + row[name] for name in row}
    return list(rows.values())


def check_measured(output: Path, measured: dict[str, Any]) -> None:
    """See that a folder holds nothing yet, or measurements of the same things; what is kept of them may change.

    Raises:
        ConfigError: if it holds those of other questions or settings.
    """
    path = output / "manifest.json"
    if not path.exists():
        if (output / "variances.jsonl").exists():
            raise ConfigError(f"{output} holds variances of an earlier version of this program; use another --output")
        return
    found = read_settings(path).get("measured", {})
    different = [key for key in measured if found.get(key) != measured[key]]
    if different:
        raise ConfigError(
            f"{output} holds variances of other {', '.join(different)}; use another --output or the same settings"
        )


def _look(store: FeatureStore | None, features: Path | None, reference: ReferenceModel, config: RunConfig) -> Look:
    if store is not None:
        return stored_look(store)
    if features is not None:
        return keeping_look(ViewStore(features, config.sampling, reference_viewer(reference)))
    return passing_look(reference, config.sampling)


def _measure_share(
    asked: QuestionFile,
    parts: Parts,
    accelerator: Accelerator,
    look: Look,
    reference: ReferenceModel,
    config: RunConfig,
    progress: Progress,
) -> None:
    """Measure what is missing of this process's share of the videos; returns when all processes have done so."""
    places = parts.index()
    accelerator.wait_for_everyone()  # nobody adds a record before everybody knows what there is
    missing = [video for video in asked.videos if video not in places or not places[video].whole]
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    earlier = parts.reading(places)
    with progress("reward variance", len(mine)) as advance, parts.appending(accelerator.process_index) as add:
        for record in measure(mine, asked, look, reference, config.filter, config.reference):
            if record["video"] not in places or earlier(record["video"]) != record:
                add(record)
            advance()
    accelerator.wait_for_everyone()


def _finish(
    asked: QuestionFile, parts: Parts, output: Path, config: RunConfig, manifest: dict[str, Any], parquet: bool
) -> None:
    """Put the measurements together in the order of the questions, and choose among them."""
    places = parts.index()
    failures = {video: error for video in asked.videos if (error := places[video].error) is not None}
    if len(failures) == len(asked.videos):
        parts.remove()
        (output / "manifest.json").unlink()
        raise none_usable(failures)
    record_of = parts.reading(places)
    variances = np.full(len(asked), np.nan)
    unscored: dict[str, str] = {}

    def rows() -> Iterator[Record]:
        for number, example in enumerate(asked):
            row = _row_of(example, record_of(example.video))
            variances[number] = row.get("variance", np.nan)
            if "error" in row and example.video not in failures:
                unscored[example.id] = row["error"]
            yield row

    write_jsonl(output / "variances.jsonl", rows())
    chosen = choose(variances, config.filter.threshold, config.filter.keep)
    counts = Counts()

    def kept() -> Iterator[Record]:
        for example, variance, keep in zip(asked, variances, chosen, strict=True):
            counts.add(example, not np.isnan(variance), bool(keep))
            if keep:
                yield dump_example(example, output)

    write_jsonl(output / "kept.jsonl", kept())
    limit = config.filter.threshold
    if config.filter.keep is not None:
        limit = float(variances[chosen].min()) if chosen.any() else 0.0
    numbers = {
        "threshold": limit,
        "keep": config.filter.keep,
        **counts.to_json(),
        "unreadable": sum(asked.count(video) for video in failures),
        "failures": failures,
        "unscored": unscored,
        "histogram": histogram(variances),
        "output": str(output / "kept.jsonl"),
    }
    draw_histogram(output / "histogram.png", variances, chosen, limit)
    if parquet:
        write_parquet(output / "variances.parquet", _objects(output / "variances.jsonl"), MEASURED_COLUMNS)
        told = (row | {"metadata": json.dumps(row.get("metadata", {}))} for row in _objects(output / "kept.jsonl"))
        write_parquet(output / "kept.parquet", told, KEPT_COLUMNS)
    write_json(output / "config.json", config.model_dump(mode="json"))
    write_json(output / "filter.json", numbers)
    write_json(output / "manifest.json", manifest | _manifest(output, parts, numbers, manifest["questions"]))


def _row_of(example: Example, record: Record) -> Record:
    if "error" in record:
        return {"id": example.id, "error": record["error"]}
    row: Record = next(row for row in record["rows"] if row["id"] == example.id)
    return row


def _manifest(output: Path, parts: Parts, numbers: dict[str, Any], questions: str) -> dict[str, Any]:
    """What it takes to get the same files again, and to see that they are the same."""
    settings = output / "config.json"
    return {
        "command": f"refocus filter {questions} --config {settings} --output {output}",
        "settings": json.loads(settings.read_text(encoding="utf-8")),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "counts": {key: numbers[key] for key in ("asked", "measured", "kept", "unreadable")}
        | {"unscored": len(numbers["unscored"])},
        "videos_in_parts": parts.sizes(),
        "sha256": {name: _sha256(output / name) for name in ("kept.jsonl", "variances.jsonl")},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _objects(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield json.loads(line)
