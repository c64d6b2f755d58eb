"""What the terminal shows: progress and notes on stderr, results on stdout, so that a pipe gets results alone."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from refocus_video.files import alone_in

MAIN_PROCESS = os.environ.get("RANK", "0") == "0"
"""Whether this is the first, or only, of the processes that a launcher such as torchrun has started."""

LINE_SECONDS = 60.0
"""Between two lines of progress, where a bar cannot be drawn."""

notes = Console(stderr=True, highlight=False)
results = Console(highlight=False, quiet=not MAIN_PROCESS)
if not results.is_terminal and "COLUMNS" not in os.environ:
    results.width = 200  # a file or a pipe has no edge to cut tables at


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A bar; the function it gives advances it by one, and takes ``note="…"`` to show beside the bar.

    A ``total`` of None stands for one that is not known. Where stderr is no terminal (a log file, CI), lines stand for the bar:
    one at the start, at most one a minute, one at the end.
    """
    with _bar(title, total) if notes.is_terminal else _lines(title, total) as advance:
        yield advance


@contextmanager
def _lines(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    done, said, last = 0, "", time.monotonic()

    def tell() -> None:
        if MAIN_PROCESS:
            line = f"{title}: {done}/{'?' if total is None else total} {said}".rstrip()
            notes.print(line, markup=False, soft_wrap=True)

    def advance(*_: Any, note: str = "") -> None:
        nonlocal done, said, last
        done, said = done + 1, note or said
        if time.monotonic() - last >= LINE_SECONDS:
            last = time.monotonic()
            tell()

    tell()
    try:
        yield advance
    finally:  # after a failure too: how far it came
        tell()


@contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=notes, disable=not MAIN_PROCESS) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(*_: Any, note: str = "") -> None:
            if note:
                bar.update(task, note=note)
            bar.advance(task)

        yield advance


def print_json(value: Any) -> None:
    """One JSON document on stdout, also when several processes run the command."""
    if MAIN_PROCESS:
        results.file.write(json.dumps(value, ensure_ascii=False) + "\n")


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A title and a table on stdout. All texts are taken as they are: a user's may hold brackets, which rich reads as markup."""
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    results.print(Text(title, style="bold"), soft_wrap=True)
    results.print(table)


def warn_failures(failures: dict[str, str]) -> None:
    """One line for each video that could not be used; most reasons name it themselves."""
    for video, reason in failures.items():
        notes.print(f"unusable: {reason if video in reason else f'{video}: {reason}'}", markup=False, soft_wrap=True)


def show_usage(usage: list[dict[str, Any]]) -> None:
    """One line for each server that was asked: requests, tokens, cost and what was not as it should be."""
    for row in usage:
        parts = [
            f"{row['requests']} requests ({row['cached']} from the cache)",
            f"{row['prompt_tokens']} tokens in, {row['completion_tokens']} out",
            *([f"cost {row['cost']:.2f}"] if row["cost"] else []),
            *([f"{row['retries']} tried again"] if row["retries"] else []),
            *([f"{row['missing_letters']} letters not listed"] if row["missing_letters"] else []),
            *([f"{row['unanswered']} replies without a letter"] if row["unanswered"] else []),
        ]
        notes.print(f"{row['model']} at {row['url']}: {', '.join(parts)}", markup=False, soft_wrap=True)


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Hold the folder, or the one file, that a run writes; the processes of one launch are one run."""
    if MAIN_PROCESS:
        with alone_in(output):
            yield
    else:
        yield
