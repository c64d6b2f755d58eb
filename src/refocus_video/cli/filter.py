"""``refocus filter``: the questions for which the choice of frames matters."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import notes, only_run, print_json, print_table, progress, show_usage, warn_failures
from refocus_video.cli.options import AsJson, ConfigName, Device, Overrides, Questions, load_config, output_folder

NONE_KEPT = (
    "no question was kept, and there is nothing to train on: --keep 100 takes the 100 largest variances, a lower --threshold more; "
    "variances near 0 mean that the answers do not depend on which frames are shown"
)


def filter_(
    questions: Questions,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for kept.jsonl, variances.jsonl, filter.json, histogram.png and manifest.json.",
            callback=output_folder,
        ),
    ] = Path("runs/filter"),
    threshold: Annotated[
        float | None, typer.Option(help="Keep variances above this τ; the configuration's if left out.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Keep so many questions, those with the largest variances, instead.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(help="Keep what the reference model sees of the videos in this folder; dropped if left out."),
    ] = None,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write the results as Parquet too.")] = False,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Keep the questions whose answer depends on which frames are shown (reward variance above τ).

    Running the same command again goes on where it stopped; other --threshold or --keep choose anew among what is measured.
    Started by torchrun, the processes share the videos.
    """
    from refocus_video.filter_run import filter_questions

    chosen = [f"filter.{key}={value}" for key, value in (("threshold", threshold), ("keep", keep)) if value is not None]
    settings = load_config(config, [*(overrides or ()), *chosen], device)
    with only_run(output):
        numbers = filter_questions(questions, output, settings, progress, features=features, parquet=parquet)
    if as_json:
        print_json(numbers)
    else:
        _print(numbers)


def _print(numbers: dict[str, Any]) -> None:
    limit = f"τ = {numbers['threshold']:g}"
    if numbers["keep"] is not None:
        limit = f"the {numbers['kept']} largest, from {numbers['threshold']:g} up"
    print_table(
        f"Reward-variance filter, {limit}",
        ["questions", "asked", "not scored", "kept"],
        [
            [
                kind or "untyped",
                str(asked),
                str(asked - numbers["measured_by_type"].get(kind, 0)),
                str(numbers["kept_by_type"].get(kind, 0)),
            ]
            for kind, asked in numbers["asked_by_type"].items()
        ]
        + [["all", str(numbers["asked"]), str(numbers["asked"] - numbers["measured"]), str(numbers["kept"])]],
    )
    if not numbers["kept"]:
        notes.print(NONE_KEPT, markup=False, soft_wrap=True)
    before, after = numbers["letters_before"], numbers["letters_after"]
    if before:
        print_table(
            "Letter of the right option",
            ["", *before],
            [
                ["measured", *(str(count) for count in before.values())],
                ["kept", *(str(after.get(letter, 0)) for letter in before)],
            ],
        )
    warn_failures(numbers["failures"])
    for name, reason in numbers["unscored"].items():
        notes.print(f"not scored: {name}: {reason}", markup=False, soft_wrap=True)
    show_usage(numbers["usage"])
