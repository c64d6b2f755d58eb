"""``refocus needle``: something hidden in a film, and who finds it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import notes, only_run, print_json, print_table, progress
from refocus_video.cli.options import (
    AnswerOptions,
    AsJson,
    Budgets,
    ConfigName,
    Device,
    Overrides,
    Policy,
    load_config,
    model_config,
    numbers,
    output_folder,
    selector_specs,
)
from refocus_video.errors import DataError


def needle(
    haystack: Annotated[
        Path, typer.Argument(metavar="HAYSTACK", help="The film to hide things in.", show_default=False)
    ],
    needle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A picture or clip to hide, a folder of them, or a JSONL file; built-in cards if left out.",
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(metavar="TEXT", help="What is asked about the needle.")] = None,
    option: AnswerOptions = None,
    answer: Annotated[int | None, typer.Option(help="Position of the right option, from 0.")] = None,
    selector: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,KEY=VALUE",
            help="Who picks, as in `refocus eval`; repeatable. uniform and the policy if left out.",
        ),
    ] = None,
    policy: Policy = "haystack-tiny",
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME,KEY=VALUE", help="Who answers from the picked frames; nobody if left out."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for needle.json, needle.jsonl and needle.svg.",
            callback=output_folder,
        ),
    ] = Path("runs/needle"),
    lengths: Annotated[str, typer.Option(help="Numbers of candidate frames, comma-separated.")] = "64,128,256,512,1024",
    depths: Annotated[str, typer.Option(help="Where the needle lies, in percent of the film.")] = "0,25,50,75,100",
    budgets: Budgets = "1,4,8",
    frames: Annotated[int, typer.Option(min=1, help="Candidates that show the needle.")] = 1,
    lures: Annotated[int, typer.Option(help="Other needles that are hidden as well, anywhere.")] = 0,
    spread: Annotated[
        float | None,
        typer.Option(help="Percent by which a needle may lie off its depth; half the way to the next if left out."),
    ] = None,
    cards: Annotated[int, typer.Option(help="Number of built-in cards, 4 to 10.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of places and cards.")] = 0,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Hide a picture or clip in a film, ask about it, and count how often its frames are picked.

    Without --needle the needles are cards drawn over the film, each with the question for its shape. Running the same command
    again goes on where it stopped.
    """
    if needle is None and (question is not None or option or answer is not None):
        raise DataError("--question, --option and --answer belong to a needle; name one with --needle")
    shape = (numbers(lengths, "--lengths"), numbers(depths, "--depths"), numbers(budgets, "--budgets"))
    from refocus_video.device import resolve
    from refocus_video.evaluate.answer import Answering
    from refocus_video.evaluate.needle import Hiding, cells, run_needle
    from refocus_video.evaluate.needles import card_needles, check_answer, read_needles
    from refocus_video.evaluation import POLICY, load_selectors, model_name
    from refocus_video.train.setup import load_reference
    from refocus_video.types import Question

    found = load_config(config, overrides, device)
    hiding = Hiding(*shape, spread=spread, lures=lures, seed=seed)
    asked = None if question is None else Question(question, tuple(option or ()))
    if asked is not None:
        check_answer(asked, answer, "--answer")
    needles = card_needles(cards, frames, seed) if needle is None else read_needles(needle, asked, answer, frames)
    specs = selector_specs(selector or ("uniform", POLICY), policy)
    who = None if model is None else model_config(found, model)
    where = resolve(found.compute.device)
    selectors, digests = load_selectors(specs, where)
    settings: dict[str, Any] = {
        "haystack": str(haystack),
        "needles": {one.id: one.digest for one in needles},
        "questions": [one.question.text for one in needles],
        "frames": frames,
        "lengths": hiding.lengths,
        "depths": hiding.depths,
        "budgets": hiding.budgets,
        "spread": hiding.reach,
        "lures": lures,
        "seed": seed,
        "selectors": [str(spec) for spec in specs],
        "fingerprints": digests,
        "model": None if who is None else who.model_dump(mode="json"),
    }
    answering = None if who is None else Answering(load_reference(who, str(where)), model_name(who))
    with only_run(output), progress("hiding needles", len(cells(needles, hiding))) as advance:
        results = run_needle(
            haystack, needles, selectors, hiding, output, settings, answering=answering, progress=advance
        )
    if as_json:
        print_json(results)
        return
    print_results(results["rows"])
    for failure in results["failures"]:
        notes.print(f"{failure['rows']} failed: {failure['reason']}", markup=False, soft_wrap=True)
    notes.print(f"heat map: {output / 'needle.svg'}", markup=False, soft_wrap=True)


def print_results(rows: list[dict[str, Any]]) -> None:
    """Recall by number of candidates, over all depths; one table a budget. Behind it the accuracy where a model answered."""
    lengths = sorted({row["length"] for row in rows})
    for budget in sorted({row["budget"] for row in rows}):
        here = [row for row in rows if row["budget"] == budget]
        answered = any(row["accuracy"] is not None for row in here)
        print_table(
            f"{budget} frame{'s' * (budget > 1)}: recall of the needle{' / accuracy' * answered}, over all depths",
            ["frames picked by", *(f"{length} candidates" for length in lengths)],
            [
                [name, *(_cell([r for r in here if (r["selector"], r["length"]) == (name, n)]) for n in lengths)]
                for name in dict.fromkeys(row["selector"] for row in here)
            ],
        )


def _cell(rows: list[dict[str, Any]]) -> str:
    parts = []
    for name in ("recall", "accuracy"):
        known = [row[name] for row in rows if row[name] is not None]
        parts += [f"{sum(known) / len(known):.2f}"] if known else []
    return " / ".join(parts)
