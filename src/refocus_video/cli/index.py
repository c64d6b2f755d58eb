"""``refocus index``: index videos ahead of questions, and look after the stored indexes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from refocus_video.cli.console import MAIN_PROCESS, notes, print_json, print_table
from refocus_video.cli.options import AsJson, ByContent, CandidateRate, Device, MaxCandidates, Policy
from refocus_video.errors import DataError, RefocusError

if TYPE_CHECKING:
    from refocus_video.policy.policy import FramePolicy
    from refocus_video.selectors.store import Entry, IndexStore
    from refocus_video.selectors.stream import OnProgress

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class _BuildByDefault(TyperGroup):
    """``refocus index VIDEO`` means ``refocus index build VIDEO``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["build", *args]
        return super().parse_args(ctx, args)


class StoredAs(StrEnum):
    """How numbers are stored."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


app = typer.Typer(
    cls=_BuildByDefault,
    help="Index videos once, so that questions about them are answered without decoding: refocus index VIDEO…",
    short_help="Index videos ahead of questions; list and remove indexes.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("build", short_help="Index videos; the word build may be left out.")
def build(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO…", help="Video files.", show_default=False)],
    policy: Policy = "haystack-tiny",
    fps: CandidateRate = 4.0,
    max_candidates: MaxCandidates = 512,
    dtype: Annotated[
        StoredAs | None,
        typer.Option(help="How to store numbers; float32, or as an index is stored already, if left out."),
    ] = None,
    by_content: ByContent = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Decode, encode and index videos; `refocus select` with the same options answers from the stored index."""
    from refocus_video.assets import locate
    from refocus_video.config import SamplingConfig
    from refocus_video.policy.index import revision
    from refocus_video.policy.policy import FramePolicy

    sampling = SamplingConfig.parse({"fps": fps, "max_frames": max_candidates}, "sampling")
    store = replace(_store(dtype, by_content), required=True)
    loaded = FramePolicy.from_pretrained(locate(policy, "policy"), device or "auto", "auto")
    name = revision(loaded)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for video in videos:
        begun = time.perf_counter()
        try:
            with indexing_bar(video.name) as on_progress:
                opened = store.open(loaded, name, video, sampling, on_progress)
        except RefocusError as error:
            failed[str(video)] = str(error)
            notes.print(f"not indexed: {error}", markup=False, soft_wrap=True)
            continue
        seconds = time.perf_counter() - begun
        rows.append({
            "video": str(video),
            "frames": len(opened.timeline),
            "reused": opened.reused,
            "seconds": round(seconds, 3),
            "dtype": opened.dtype,
            "bytes": opened.path.stat().st_size,
            "index": str(opened.path),
        })  # fmt: skip
    if as_json:
        print_json({"videos": rows, "failed": failed, **ran_on(loaded)})
    elif rows:
        print_table(
            f"Indexes in {store.folder}",
            ["video", "frames", "", "seconds", "stored as", "size"],
            [
                [
                    row["video"],
                    str(row["frames"]),
                    "was there" if row["reused"] else "indexed",
                    f"{row['seconds']:.2f}",
                    row["dtype"],
                    size_text(row["bytes"]),
                ]
                for row in rows
            ],
        )
    if failed:
        raise DataError(f"{len(failed)} of {len(videos)} videos could not be indexed")


@app.command("ls", short_help="List the stored indexes.")
def ls(as_json: AsJson = False) -> None:
    """List the stored indexes, the one used last first, with their sizes."""
    store = _store()
    entries = store.entries()
    total = sum(entry.num_bytes for entry in entries)
    if as_json:
        print_json({"folder": str(store.folder), "bytes": total, "indexes": [_row(entry) for entry in entries]})
        return
    print_table(
        f"{_count(entries)} in {store.folder}: {size_text(total)}",
        ["video", "frames", "size", "used", "name"],
        [
            [
                entry.about.get("video", "not readable"),
                str(entry.about.get("frames", "–")),
                size_text(entry.num_bytes),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
                entry.name[:12],
            ]
            for entry in entries
        ],
    )
    for entry in entries:
        if entry.problem:
            notes.print(entry.problem, markup=False, soft_wrap=True)


@app.command("rm", short_help="Remove indexes of videos.")
def rm(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="VIDEO…", help="Videos, or names that ls shows.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all indexes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the indexes of videos; the videos themselves are left alone."""
    store = _store()
    if everything == bool(names):
        raise DataError("name the videos whose indexes to remove, or give --all")
    removed = store.prune(0) if everything else []
    missing = []
    for name in names or []:
        found = store.remove(name)
        removed += found
        if not found:
            missing.append(name)
    _report(removed, as_json)
    if missing:
        raise DataError(f"no index of {', '.join(missing)} in {store.folder}; `refocus index ls` shows what is there")


@app.command("prune", short_help="Remove the indexes used least recently.")
def prune(
    limit: Annotated[str, typer.Option(metavar="SIZE", help="What may stay, such as 500MB or 2GB.")] = "10GB",
    as_json: AsJson = False,
) -> None:
    """Remove the indexes used least recently until the rest fits a size."""
    _report(_store().prune(parse_size(limit)), as_json)


def _store(dtype: StoredAs | None = None, by_content: bool = False) -> "IndexStore":
    from refocus_video.selectors.store import IndexStore, default_folder

    return IndexStore(default_folder(), None if dtype is None else dtype.value, by_content)


@contextmanager
def indexing_bar(title: str) -> Iterator["OnProgress"]:
    """A bar with frames done, frames a second and time left; nothing is shown for an index that is there already."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from refocus_video.selectors.stream import IndexingProgress

    columns = (
        TextColumn("indexing {task.description}", markup=False),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, disable=not MAIN_PROCESS) as bar:
        task = bar.add_task(title, total=None, speed="", visible=False)

        def on_progress(state: IndexingProgress) -> None:
            speed = f"{state.frames_per_s:.1f} frames/s"
            bar.update(task, completed=state.done, total=state.total, speed=speed, visible=True)

        yield on_progress


def ran_on(policy: "FramePolicy") -> dict[str, str]:
    """Where a policy runs, in which type, and what computes its scan."""
    dtype = str(policy.logit_scale.dtype).removeprefix("torch.")
    return {"device": str(policy.device), "dtype": dtype, "scan": policy.backbone.backend()}


def parse_size(text: str) -> int:
    """Bytes from a number with an optional unit.

    Raises:
        DataError: when it is neither.
    """
    number = text.strip().upper().rstrip("BKMGT")
    unit = text.strip().upper()[len(number) :]
    try:
        size = float(number) * UNITS[unit]
        if size >= 0:
            return int(size)
    except (ValueError, KeyError, OverflowError):
        pass
    raise DataError(f"a size is a number with KB, MB, GB or TB, found {text!r}")


def size_text(num_bytes: int) -> str:
    """A size as people read it."""
    unit = next((unit for unit in ("TB", "GB", "MB", "KB") if num_bytes >= UNITS[unit]), "B")
    return f"{num_bytes / UNITS[unit]:.3g} {unit}"


def _count(entries: "list[Entry]") -> str:
    return "1 index" if len(entries) == 1 else f"{len(entries)} indexes"


def _row(entry: "Entry") -> dict[str, Any]:
    row = {"name": entry.name, "bytes": entry.num_bytes, "used": round(entry.used, 3), "index": str(entry.path)}
    if entry.problem:
        return row | {"problem": entry.problem}
    return row | entry.about


def _report(removed: "list[Entry]", as_json: bool) -> None:
    total = sum(entry.num_bytes for entry in removed)
    if as_json:
        print_json({"removed": [_row(entry) for entry in removed], "bytes": total})
    else:
        notes.print(f"removed {_count(removed)}, {size_text(total)}", markup=False)
