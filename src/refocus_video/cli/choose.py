"""``refocus choose``: frames for every question of a file, to be used with many models or measured without one."""

from pathlib import Path
from typing import Annotated

import typer

from refocus_video.cli.console import print_json, print_table, progress, warn_failures
from refocus_video.cli.options import AsJson, ConfigName, Overrides, Questions, load_config
from refocus_video.errors import DataError


def choose(
    questions: Questions,
    selector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,KEY=VALUE",
            help="Who picks, e.g. aks,relevance=google/siglip2-base-patch16-224; repeatable. uniform, random and the "
            "policy, most probable and sampled, if left out.",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="Folder or hub id of a trained policy.")] = "haystack-tiny",
    budgets: Annotated[str, typer.Option(help="Budgets, comma-separated.")] = "8,32",
    output: Annotated[Path, typer.Option(help="Selection file to write.")] = Path("selections.jsonl"),
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Oracle, query-blind and wrong-question picks as well.")
    ] = False,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Pick frames for every question of a file, once, without an answering model.

    `refocus eval` shows the selection file to models, `refocus quality` measures it. Running the same command again goes on
    where it stopped.
    """
    try:
        numbers_of_frames = tuple(int(part) for part in budgets.split(","))
    except ValueError:
        raise DataError(f"--budgets takes whole numbers separated by commas, found {budgets!r}") from None
    from refocus_video.choose_run import choose_frames
    from refocus_video.evaluation import POLICY, Spec, default_selectors

    found = load_config(config, overrides)
    named = [Spec.parse(text) for text in selector or ()]
    specs = [Spec(s.name, {POLICY: policy} | s.settings) if s.name == POLICY else s for s in named]
    numbers = choose_frames(
        questions,
        specs or default_selectors(policy, found.train.seed),
        numbers_of_frames,
        output,
        found,
        progress,
        controls=controls,
    )
    if as_json:
        print_json(numbers)
        return
    print_table(
        f"{numbers['output']}: {numbers['questions']} questions about {numbers['videos']} videos",
        ["frames picked by", "choices", "without frames"],
        [[name, str(count), str(numbers["without_frames"].get(name, 0))] for name, count in numbers["rows"].items()],
    )
    warn_failures(numbers["failures"])
