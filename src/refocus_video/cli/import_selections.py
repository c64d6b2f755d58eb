"""``refocus data import-selections``: frame lists that others have published, as a selection file."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refocus_video.cli.console import print_json, print_table, progress, warn_failures
from refocus_video.cli.options import AsJson, output_file
from refocus_video.errors import DataError

if TYPE_CHECKING:
    from refocus_video.types import FloatArray

WORTH_SAYING = {
    "other_questions": "for other questions, left out",
    "not_listed": "questions without a list",
    "without_frames": "without frames, and saying why",
    "beyond": "naming a frame that the video does not have",
    "unsorted": "not in temporal order, sorted",
    "repeated": "naming a frame more than once",
    "repeats": "frames left away as repeats",
    "short": "with fewer frames than the budget",
}


def import_selections(
    format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="aks, tspo, kfs-bench, refocus, or an import path package.module:function.",
            show_default=False,
        ),
    ],
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="The published lists.", show_default=False)],
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Question file, whose ids the lists must know; as the lists name themselves if left out.",
            show_default=False,
        ),
    ] = None,
    order: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The benchmark's own annotation file, for lists told by their order alone; QUESTIONS if left out.",
            show_default=False,
        ),
    ] = None,
    selector: Annotated[
        str | None, typer.Option(help="Who picked; FORMAT's name if left out.", show_default=False)
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(min=1, help="Frames asked for; those of the longest list if left out.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option(help="Selection file to write.", callback=output_file)] = Path(
        "selections.jsonl"
    ),
    as_json: AsJson = False,
) -> None:
    """Write frame lists that others have published as a selection file.

    Times are read from the videos that are at hand; without them times stay empty. Whatever a list gets wrong is counted.
    """
    numbers = run_import(format, files, questions, order, selector or format, budget, output)
    if as_json:
        print_json(numbers)
        return
    rows = [
        ["listed", numbers["listed"]],
        ["written", numbers["written"]],
        ["with times of the video", numbers["with_times"]],
    ]
    rows += [[what, numbers[key]] for key, what in WORTH_SAYING.items() if numbers[key]]
    print_table(
        f"{output}: {numbers['budget']} frames by {numbers['selector']}", ["", "lists"], [[a, str(b)] for a, b in rows]
    )
    warn_failures(numbers["unreadable"])


def run_import(
    format: str,
    files: list[Path],
    questions: Path | None,
    order: Path | None,
    selector: str,
    budget: int | None,
    output: Path,
) -> dict[str, Any]:
    """Write the selection file; returns what is printed.

    Raises:
        DataError: a file is malformed, or its lists cannot be told apart or are for none of the questions.
    """
    from dataclasses import asdict

    from refocus_video.data.datasets.rows import rows_of
    from refocus_video.data.examples import read_examples
    from refocus_video.data.selection_formats import SELECTION_FORMATS
    from refocus_video.data.selection_formats.convert import Tally, convert, identified
    from refocus_video.data.selection_formats.listed import about
    from refocus_video.data.selections import write_selections

    read = SELECTION_FORMATS.load(format)
    examples = None if questions is None else {example.id: example for example in read_examples(questions)}
    ids = list(examples or ()) if order is None else [about(row).id for row in rows_of(order)]
    entries = list(identified((entry for file in files for entry in read(file)), ids))
    tally, times = Tally(), lru_cache(maxsize=8)(_frame_times)
    rows = []
    with progress("reading times", len(entries)) as advance:
        for row in convert(entries, examples, selector, budget, times, tally):
            rows.append(row)
            advance()
    if not rows:
        raise DataError(
            f"{files[0]}: none of {len(entries)} lists is for one of the questions; the first is for {entries[0].about.id!r}"
        )
    numbers = asdict(tally) | {"output": str(output), "selector": selector, "budget": rows[0].budget}
    about_file = {
        "imported": format,
        "files": [file.name for file in files],
        "selector": selector,
        "counts": asdict(tally),
    }
    write_selections(output, about_file, rows)
    return numbers


def _frame_times(video: str) -> "FloatArray | None":
    if not Path(video).is_file():
        return None
    from refocus_video.video.reader import VideoReader

    with VideoReader(video) as reader:
        return reader.times
