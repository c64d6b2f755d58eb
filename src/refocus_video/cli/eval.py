"""``refocus eval``: selectors × answering models × budgets × question files, as tables and a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import notes, only_run, print_json, print_table, progress, show_usage, warn_failures
from refocus_video.cli.options import (
    AsJson,
    ConfigName,
    Controls,
    Device,
    Overrides,
    Policy,
    Selectors,
    load_config,
    model_config,
    numbers,
    output_folder,
    selector_specs,
)
from refocus_video.errors import DataError


def eval_(
    questions: Annotated[
        list[Path],
        typer.Argument(metavar="QUESTIONS", help="JSONL files of questions, one object a line.", show_default=False),
    ],
    policy: Policy = "haystack-tiny",
    selector: Selectors = None,
    selections: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Frames picked before: a selection file. Repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,KEY=VALUE", help="Who answers; repeatable. The configuration's reference if left out."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for selections.jsonl, rows.jsonl, results.json and report.html.", callback=output_folder
        ),
    ] = Path("runs/eval"),
    budgets: Annotated[
        str | None,
        typer.Option(
            help="How many frames to pick, comma-separated; those of the selection files, else 1,2,4,8, if left out."
        ),
    ] = None,
    controls: Controls = True,
    in_words: Annotated[
        bool, typer.Option("--in-words", help="Options are answered by a written letter, not by the likeliest one.")
    ] = False,
    wups: Annotated[
        bool, typer.Option("--wups", help="Measure open-ended answers by WUPS as well; needs nltk and its WordNet.")
    ] = False,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,KEY=VALUE",
            help="Model that says whether an open-ended answer is right; the words are compared if left out.",
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="The selector that gains are measured against.")] = "uniform",
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare ways of picking frames by what answering models make of them.

    Running the same command again goes on where it stopped. `refocus selectors` lists the names.
    """
    numbers_of_frames = (
        numbers(budgets, "--budgets") if budgets is not None else budgets_of(selections or ()) or (1, 2, 4, 8)
    )
    check_questions(questions)
    from refocus_video.evaluation import Comparison, default_selectors, run_comparison

    found = load_config(config, overrides, device)
    specs = selector_specs(selector or (), policy) or (
        () if selections else default_selectors(policy, found.train.seed)
    )
    comparison = Comparison(
        selectors=tuple(specs),
        models=tuple(model_config(found, text) for text in model or ()) or (found.reference,),
        budgets=numbers_of_frames,
        selections=tuple(selections or ()),
        controls=controls,
        baseline=baseline,
        in_words=in_words,
        wups=wups,
        judge=None if judge is None else model_config(found, judge, "--judge"),
    )
    with only_run(output):
        results = run_comparison(questions, comparison, output, found, progress)
    if as_json:
        print_json(next(iter(results.values())) if len(results) == 1 else results)
        return
    for of_file in results.values():
        print_results(of_file)


def budgets_of(selections: Sequence[Path]) -> tuple[int, ...]:
    """The budgets that selection files hold, increasing."""
    from refocus_video.data.selections import read_selections

    return tuple(sorted({row.budget for path in selections for row in read_selections(path).rows}))


def check_questions(files: Sequence[Path]) -> None:
    """Refuse a question file that is not there, before anything that takes long to import.

    Raises:
        DataError: naming it.
    """
    for path in files:
        if not path.is_file():
            raise DataError(f"no question file at {path}; give the path of a JSONL file")


def print_results(results: dict[str, Any]) -> None:
    """Accuracy and evidence recall, one table a model and question type, one column a budget."""
    models = list(dict.fromkeys(row["model"] for row in results["rows"]))
    for name in models:
        rows = [row for row in results["rows"] if row["model"] == name]
        budgets = sorted({row["budget"] for row in rows})
        for kind in dict.fromkeys(row["question_type"] for row in rows):
            of_kind = {(row["selector"], row["budget"]): row for row in rows if row["question_type"] == kind}
            count = max(row["n"] for row in of_kind.values())
            whose = f", {name}" if len(models) > 1 else ""
            print_table(
                f"{kind} questions ({count}){whose}: accuracy / evidence recall",
                ["frames picked by", *(f"{budget} frame{'s' * (budget > 1)}" for budget in budgets)],
                [
                    [selector, *(_cell(of_kind.get((selector, budget))) for budget in budgets)]
                    for selector in dict.fromkeys(selector for selector, _ in of_kind)
                ],
            )
        whole = [row for row in rows if row["question_type"] == "all"]
        if lost := sum(row["unparsable"] for row in whole):
            asked = sum(row["n"] for row in whole)
            notes.print(
                f"{name}: {lost} of {asked} replies name none of the options; they count as wrong", markup=False
            )
    warn_failures({failure["video"]: failure["reason"] for failure in results["failures"]})
    show_usage(results["usage"])


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['accuracy']:.2f} / " + ("–" if row["recall"] is None else f"{row['recall']:.2f}")


def selectors(as_json: AsJson = False) -> None:
    """List the ways of picking frames that `refocus eval --selector` takes, with what they need."""
    from refocus_video.selectors.known import described

    found = described()
    if as_json:
        print_json(found)
        return
    width = max(len(row["name"]) for row in found)
    for row in found:
        settings = f"\n{'':{width}}    {', '.join(row['settings'])}" if row["settings"] else ""
        typer.echo(f"{row['name']:{width}}  {row['meaning']}{settings}")
