"""``refocus reference``: what a reference model is good for."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import (
    notes,
    only_run,
    print_json,
    print_table,
    progress,
    results,
    show_usage,
    warn_failures,
)
from refocus_video.cli.options import AsJson, ConfigName, Device, Overrides, Questions, load_config, output_folder

app = typer.Typer(
    help="Whether a reference LMM can teach a policy.",
    short_help="Check whether an LMM can teach.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Whether a reference LMM can teach a policy."""


@app.command("check", short_help="Measure calibration, letter bias, and whether hiding pays.")
def check(
    questions: Questions,
    output: Annotated[
        Path, typer.Option(help="Folder for check.json, check.html and rows.jsonl.", callback=output_folder)
    ] = Path("runs/reference-check"),
    frames: Annotated[int, typer.Option("--frames", "-k", min=1, help="Frames in each subset.")] = 8,
    subsets: Annotated[int, typer.Option(help="Random subsets of each question.")] = 8,
    videos: Annotated[
        int | None, typer.Option(help="Look at so many videos, drawn at random; at all if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether the configured reference LMM can teach: does its reward follow accuracy, and does hiding frames pay?

    Shows it no, some and all of the evidence (no frames and even spacing where no evidence is known). Running the same command
    again goes on where it stopped.
    """
    from refocus_video.reference_run import check_reference

    settings = load_config(config, overrides, device)
    with only_run(output):
        numbers = check_reference(
            questions, output, settings, progress, frames=frames, subsets=subsets, videos=videos, seed=seed
        )
    if as_json:
        print_json(numbers)
    else:
        _print(numbers)


def _print(numbers: dict[str, Any]) -> None:
    groups = dict.fromkeys(line["question_type"] for line in numbers["evidence"])
    for group in groups:
        lines = [line for line in numbers["evidence"] if line["question_type"] == group]
        print_table(
            f"{group} questions",
            ["shown", "questions", "accuracy", "chance", "confidence", "p(answer)", "ECE", "reward", "margin reward"],
            [
                [line["kind"], str(line["questions"]), _ends(line, "correct"), _number(line, "chance"),
                 *(_number(line, name) for name in ("confidence", "probability", "ece", "reward", "margin"))]
                for line in lines
            ],
        )  # fmt: skip
    if numbers["letters"]:
        letters = sorted({letter for line in numbers["letters"] for letter in line["expected"]})
        print_table(
            "Letters picked, options in every order",
            ["questions", "shown", *letters, "variation", "accuracy spread"],
            [
                [line["question_type"], line["kind"], *(f"{line['picked'].get(letter, 0):.2f}" for letter in letters),
                 _ends(line, "variation"), f"{line['spread']:.2f}"]
                for line in numbers["letters"]
            ],
        )  # fmt: skip
    print_table(
        "Correlation of the reward over random subsets",
        ["questions", "with accuracy, over questions", "among a question's subsets", "with evidence seen"],
        [
            [line["question_type"], *(_ends(line, name) for name in ("questions", "subsets", "evidence"))]
            for line in numbers["correlation"]
        ],
    )
    marks = {True: "ok  ", False: "NO  ", None: "–   "}
    for item in numbers["items"]:
        results.print(
            f"{marks[item['passed']]}{item['name']} (limit {item['limit']:.2g}): {item['says']}",
            markup=False,
            soft_wrap=True,
        )
    results.print(f"verdict: {numbers['model']} {numbers['verdict']}", markup=False, soft_wrap=True)
    for advice in numbers["advice"]:
        results.print(f"→ {advice}", markup=False, soft_wrap=True)
    warn_failures(numbers["failures"])
    for name, reason in numbers["unscored"].items():
        notes.print(f"not scored: {name}: {reason}", markup=False, soft_wrap=True)
    show_usage(numbers["usage"])
    notes.print(f"report: {numbers['page']}", markup=False, soft_wrap=True)


def _number(line: dict[str, Any], name: str) -> str:
    value = line.get(name)
    return "–" if value is None else f"{value:.2f}"


def _ends(line: dict[str, Any], name: str) -> str:
    low, high = line.get(f"{name}_low"), line.get(f"{name}_high")
    return _number(line, name) + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")
