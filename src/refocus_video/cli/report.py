"""``refocus report``: any number of evaluations as one page and as tables for other documents."""

from pathlib import Path
from typing import Annotated

import typer

from refocus_video.cli.console import notes, print_json, progress
from refocus_video.cli.options import AsJson, output_folder


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Folders that `refocus eval` wrote, or folders of them.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for report.html, tables.md, tables.tex, results.csv and results.json.",
            callback=output_folder,
        ),
    ] = Path("runs/report"),
    baseline: Annotated[
        str | None, typer.Option(help="The selector that gains are measured against; uniform if left out.")
    ] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Ways of picking frames",
    as_json: AsJson = False,
) -> None:
    """Put evaluations side by side: one page, and tables in Markdown, LaTeX and CSV.

    They must have chosen among the same candidates of every video they share, and asked the same questions under one name.
    """
    from refocus_video.evaluate.overview import survey, write_overview, write_tables
    from refocus_video.evaluate.runs import load_runs

    with progress("reading runs", len(runs)) as advance:
        found = load_runs(runs, advance)
    overview = survey(found, baseline)
    write_tables(overview, output)
    with progress("drawing", len(found.cells)) as advance:
        page = write_overview(overview, output, title, advance)
    if as_json:
        print_json(overview.to_json())
    else:
        notes.print(f"report: {page}", markup=False, soft_wrap=True)
        notes.print(f"tables: {output}/tables.md, tables.tex, results.csv, results.json", markup=False, soft_wrap=True)
