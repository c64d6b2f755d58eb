"""``refocus quality``: what frames picked before hold of the evidence, without any model."""

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import notes, print_json, print_table
from refocus_video.cli.options import AsJson, output_folder


def quality(
    selections: Annotated[
        list[Path], typer.Argument(metavar="SELECTIONS", help="Selection files, to be compared.", show_default=False)
    ],
    questions: Annotated[
        Path | None,
        typer.Option(help="JSONL file of questions; those of the evidence file if left out.", show_default=False),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What must be seen: a CSV of KFS-Bench, or JSONL with id and scenes. The questions' own evidence if left out.",
        ),
    ] = None,
    within: Annotated[float, typer.Option(metavar="SECONDS", help="A frame covers so much on each side.")] = 5.0,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for quality.json and quality.csv, one row a question.",
            show_default=False,
            callback=output_folder,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure frames picked before against evidence, and how they lie in time. No model, no video file.

    A question without frames counts as finding nothing. Compare numbers at equal budgets only.
    """
    from refocus_video.evaluate.measure import run_quality
    from refocus_video.files import write_json, write_text

    numbers, measured = run_quality(selections, questions, evidence, within)
    if output is not None:
        write_json(output / "quality.json", numbers)
        write_text(output / "quality.csv", _as_csv(measured))
    if as_json:
        print_json(numbers)
    else:
        _print(numbers)


def _as_csv(measured: list[dict[str, Any]]) -> str:
    from refocus_video.evaluate.measure import COLUMNS

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(measured)
    return text.getvalue()


def _print(numbers: dict[str, Any]) -> None:
    for budget in sorted({row["budget"] for row in numbers["rows"]}):
        rows = [row for row in numbers["rows"] if row["budget"] == budget]
        frames = f"{budget} frame{'s' * (budget > 1)}"
        if numbers["with_evidence"]:
            print_table(
                f"{frames}: what they hold of the evidence ({numbers['with_evidence']} questions)",
                ["frames picked by", "hit", "precision", "SHR", "BSR", "BDS", "UKSS"],
                [
                    [row["selector"], *(_number(row[key]) for key in ("hit", "precision")), _with_ends(row, "scene_hit_rate"),
                     *(_number(row[key]) for key in ("balanced_recall", "balance")), _with_ends(row, "ukss")]
                    for row in rows
                ],
            )  # fmt: skip
        print_table(
            f"{frames}: how they lie in time ({numbers['questions']} questions)",
            ["frames picked by", f"within {numbers['reach_s']:g} s", "largest gap", "crowding", "entropy", "bias", "missing"],
            [
                [row["selector"], *(_number(row[key]) for key in ("coverage", "largest_gap", "crowding", "entropy")),
                 _number(row["position_bias"]), str(sum(row["missing"].values()))]
                for row in rows
            ],
        )  # fmt: skip
        pairs = [pair for pair in numbers["pairs"] if pair["budget"] == budget]
        if pairs:
            print_table(
                f"{frames}: how alike two choices are",
                ["", "questions", "overlap", "divergence"],
                [
                    [f"{pair['first']}, {pair['second']}", str(pair["n"]), _number(pair["overlap"]), _number(pair["divergence"])]
                    for pair in pairs
                ],
            )  # fmt: skip
    _note(numbers)


def _note(numbers: dict[str, Any]) -> None:
    guessed = numbers["videos_of_last_known_time"]
    if guessed:
        notes.print(f"length of {guessed} videos is not stated: taken as the last time known of them", markup=False)
    if numbers["unknown_pools"]:
        notes.print(
            f"{numbers['unknown_pools']} choices do not say among which frames they were made: compared unchecked",
            markup=False,
            soft_wrap=True,
        )
    if numbers["other_questions"]:
        notes.print(
            f"{numbers['other_questions']} selected questions are not among those asked and were left out", markup=False
        )
    for row in numbers["rows"]:
        counts = [f"{count} {cause}" for cause, count in row["missing"].items()]
        if row["short"]:
            counts.append(f"{row['short']} with fewer frames than asked for")
        if counts:
            notes.print(
                f"{row['selector']}, {row['budget']} frames, of {row['n']} questions: {', '.join(counts)}",
                markup=False,
                soft_wrap=True,
            )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _with_ends(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return _number(row[name]) + ends
