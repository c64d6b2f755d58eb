"""``refocus choose``: frames for every question of a file, to be used with many models or measured without one."""

from pathlib import Path
from typing import Annotated

import typer

from refocus_video.cli.console import only_run, print_json, print_table, progress, warn_failures
from refocus_video.cli.options import (
    AsJson,
    Budgets,
    ConfigName,
    Controls,
    Device,
    Overrides,
    Policy,
    Questions,
    Selectors,
    load_config,
    numbers,
    output_file,
    selector_specs,
)


def choose(
    questions: Questions,
    selector: Selectors = None,
    policy: Policy = "haystack-tiny",
    budgets: Budgets = "8,32",
    output: Annotated[Path, typer.Option(help="Selection file to write.", callback=output_file)] = Path(
        "selections.jsonl"
    ),
    controls: Controls = False,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Pick frames for every question of a file, once, without an answering model.

    `refocus eval` shows the selection file to models, `refocus quality` measures it. Running the same command again goes on
    where it stopped.
    """
    numbers_of_frames = numbers(budgets, "--budgets")
    from refocus_video.choose_run import choose_frames
    from refocus_video.evaluation import default_selectors

    found = load_config(config, overrides, device)
    with only_run(output):
        counts = choose_frames(
            questions,
            selector_specs(selector or (), policy) or default_selectors(policy, found.train.seed),
            numbers_of_frames,
            output,
            found,
            progress,
            controls=controls,
        )
    if as_json:
        print_json(counts)
        return
    print_table(
        f"{counts['output']}: {counts['questions']} questions about {counts['videos']} videos",
        ["frames picked by", "choices", "without frames"],
        [[name, str(count), str(counts["without_frames"].get(name, 0))] for name, count in counts["rows"].items()],
    )
    warn_failures(counts["failures"])
