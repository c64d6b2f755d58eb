"""``refocus warm-start``: before reinforcement learning, teach a policy to pick what an image–text model finds similar."""

from pathlib import Path
from typing import Annotated

import typer

from refocus_video.cli.console import notes, only_run, print_json, print_table, progress, warn_failures
from refocus_video.cli.options import (
    AsJson,
    ConfigName,
    Device,
    Features,
    Overrides,
    Questions,
    load_config,
    output_folder,
)


def warm_start(
    questions: Questions,
    start: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of the policy to teach, as `refocus init` makes it; the config's if left out."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of an image–text model; the one that the tower comes from if left out."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for checkpoints, metrics and the policy.",
            callback=output_folder,
        ),
    ] = Path("runs/warm"),
    features: Features = None,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Teach a policy to pick the frames that an image–text model finds most similar to the question.

    No answers and no reference model are needed. Running the same command again goes on from the newest checkpoint; then
    `refocus train --set start.policy=OUTPUT/policy`.
    """
    from refocus_video.pipeline import warm_start as run

    given = [
        f"{key}={value}" for key, value in (("start.policy", start), ("warm.teacher", teacher)) if value is not None
    ]
    with only_run(output):
        numbers = run(
            questions, output, load_config(config, [*given, *(overrides or ())], device), progress, features=features
        )
    if as_json:
        print_json(numbers)
        return
    before, after = numbers["before"], numbers["after"]
    held = numbers["held_out_videos"]
    print_table(
        f"Agreement with the teacher on {f'{held} held-out videos' if held else 'the training videos'}",
        ["first pick", "before", "after"],
        [
            [name, f"{before[key]:.2f}", f"{after[key]:.2f}"]
            for name, key in (
                ("rank correlation", "spearman"),
                ("share of best frames", "top_overlap"),
                ("divergence in nats", "divergence"),
            )
        ],
    )
    notes.print(f"policy: {numbers['policy']}   questions: {numbers['examples']}", markup=False, soft_wrap=True)
    if numbers["cut_questions"]:
        notes.print(
            f"{numbers['cut_questions']} questions are longer than the teacher reads and were cut", markup=False
        )
    warn_failures(numbers["failures"])
