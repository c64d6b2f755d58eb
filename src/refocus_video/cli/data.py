"""``refocus data``: question files from the annotations of public data sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refocus_video.cli.console import notes, print_json, print_table, progress
from refocus_video.cli.import_selections import import_selections
from refocus_video.cli.options import AsJson, output_file
from refocus_video.errors import DataError

if TYPE_CHECKING:
    from refocus_video.types import Example, FloatArray

SHOWN = 10
"""Missing videos that are named on the terminal; the file of rows left out has them all."""

WORTH_SAYING = {
    "renamed": "id used before, renamed",
    "without_evidence": "evidence not found in the video",
}

app = typer.Typer(
    help="Question files from the annotations of public data sets, and selection files from published frame lists.",
    short_help="Convert public data sets and published frame lists.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


app.command("import-selections", short_help="Write published frame lists as a selection file.")(import_selections)


@app.command(short_help="Write the questions of a data set as JSONL.")
def convert(
    format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="video-mme, longvideobench, mlvu, lvbench, next-qa, egoschema, video-mmmu, activitynet-qa, llava-video, "
            "perceptiontest, mvbench, tempcompass, cg-bench, jsonl, csv, or an import path package.module:function.",
            show_default=False,
        ),
    ],
    annotations: Annotated[
        Path,
        typer.Argument(
            metavar="ANNOTATIONS", help="The data set's own file, or the folder of several.", show_default=False
        ),
    ],
    videos: Annotated[
        Path,
        typer.Option(help="Folder below which the videos lie, nested as they like.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Question file to write.", callback=output_file)] = Path(
        "questions.jsonl"
    ),
    as_json: AsJson = False,
) -> None:
    """Write the questions of a public data set as JSONL, as filter, train and eval read it.

    Questions whose video is not there, or that are none to work with, are counted, and listed with their reasons in OUTPUT's name
    + .left-out.jsonl.
    """
    numbers = run_convert(format, annotations, videos, output)
    if as_json:
        print_json(numbers)
    else:
        _print(numbers)


def run_convert(format: str, annotations: Path, videos: Path, output: Path) -> dict[str, Any]:
    """Write the question file, and the rows left out beside it; returns what is printed.

    Raises:
        DataError: if the annotations are malformed, or not one question with its video is left.
    """
    from refocus_video.data.datasets import DATASETS
    from refocus_video.data.datasets.convert import Tally, convert
    from refocus_video.data.datasets.videos import VideoFolder
    from refocus_video.data.examples import write_examples
    from refocus_video.files import write_jsonl

    read = DATASETS.load(format)
    tally = Tally()
    with progress("converting", None) as advance:

        def examples() -> Iterator["Example"]:
            for example in convert(read(annotations), VideoFolder(videos), _frame_times, tally):
                advance()
                yield example
            if not tally.written:
                first = tally.left_out[0]["reason"] if tally.left_out else "there are no rows"
                raise DataError(f"{annotations}: none of {tally.asked} questions can be used; the first: {first}")

        write_examples(output, examples())
    left_out = output.with_name(f"{output.stem}.left-out.jsonl")
    left_out.unlink(missing_ok=True)
    if tally.left_out:
        write_jsonl(left_out, tally.left_out)
    return {
        "output": str(output),
        "asked": tally.asked,
        "written": tally.written,
        "videos": len(tally.videos),
        "left_out": tally.reasons(),
        "left_out_file": str(left_out) if tally.left_out else None,
        "missing_videos": sorted(tally.missing),
        "renamed": tally.renamed,
        "without_evidence": tally.without_evidence,
    }


def _frame_times(video: str) -> "FloatArray":
    from refocus_video.video.reader import VideoReader

    with VideoReader(video) as reader:
        return reader.times


def _print(numbers: dict[str, Any]) -> None:
    rows = [["rows", numbers["asked"]], ["written", numbers["written"]], ["videos", numbers["videos"]]]
    rows += [[f"left out: {reason}", count] for reason, count in numbers["left_out"].items()]
    rows += [[what, numbers[key]] for key, what in WORTH_SAYING.items() if numbers[key]]
    print_table(numbers["output"], ["", "questions"], [[what, str(count)] for what, count in rows])
    missing = numbers["missing_videos"]
    for reason in missing[:SHOWN]:
        notes.print(f"missing: {reason}", markup=False, soft_wrap=True)
    if len(missing) > SHOWN:
        notes.print(
            f"missing: {len(missing) - SHOWN} more, in {numbers['left_out_file']}", markup=False, soft_wrap=True
        )
