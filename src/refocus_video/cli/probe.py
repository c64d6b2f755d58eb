"""``refocus probe``: what becomes of the answers when frames are blurred, replaced or left out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from refocus_video.cli.console import notes, only_run, print_json, print_table, progress, show_usage, warn_failures
from refocus_video.cli.options import (
    AsJson,
    ConfigName,
    Device,
    Frames,
    Overrides,
    Policy,
    Questions,
    load_config,
    model_config,
    numbers,
    output_folder,
)

app = typer.Typer(
    help="What becomes of the answers when frames are blurred, replaced by noise, or left out.",
    short_help="Blur, replace or leave out frames, and see what it costs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME,KEY=VALUE", help="Who answers. The configuration's reference if left out."),
]
Output = Annotated[
    Path, typer.Option(help="Folder for the JSON, the JSONL of rows and the figure.", callback=output_folder)
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")]
OUTPUT = Path("runs/probe")


@app.command(short_help="Blur the most-selected segments.")
def suppression(
    questions: Questions,
    policy: Policy = "haystack-tiny",
    model: Model = None,
    output: Output = OUTPUT,
    frames: Frames = 8,
    shown: Annotated[int, typer.Option(help="Evenly spaced frames that the model sees.")] = 32,
    segments: Annotated[int, typer.Option(help="Into so many a video is cut.")] = 32,
    blurred: Annotated[
        str | None, typer.Option(help="Numbers of blurred segments; 0, 1, 2, 4, … up to all if left out.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Sampled subsets by which segments are ranked.")] = 64,
    draws: Annotated[int, typer.Option(help="Random orders that are averaged.")] = 4,
    seed: Seed = 0,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Blur the segments of a video that the policy selects most often, and random ones: accuracy against their number.

    Running the same command again goes on where it stopped.
    """
    from refocus_video.evaluate.probes.suppression import Suppression

    doubled = [0, *(2**i for i in range(segments.bit_length()) if 2**i <= segments)]
    probe = Suppression(
        segments, numbers(blurred, "--blurred") if blurred else tuple(doubled), shown, frames, samples, draws
    )
    results = _run(probe, questions, policy, model, output, seed, load_config(config, overrides, device))
    _show(results, as_json, "accuracy with blurred segments", "arm", "k", "accuracy")


@app.command("prefix-noise", short_help="Force the first picks to be random.")
def prefix_noise(
    questions: Questions,
    policy: Policy = "haystack-tiny",
    model: Model = None,
    output: Output = OUTPUT,
    frames: Frames = 8,
    forced: Annotated[str | None, typer.Option(help="Numbers of random picks; 0 to all if left out.")] = None,
    draws: Annotated[int, typer.Option(help="Random prefixes that are averaged.")] = 4,
    seed: Seed = 0,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Force the first picks to be random frames and let the policy go on: accuracy against their number.

    Beside it the same number of random frames after the policy's undisturbed picks. Running the same command again goes on
    where it stopped.
    """
    from refocus_video.evaluate.probes.prefix_noise import PrefixNoise

    probe = PrefixNoise(frames, numbers(forced, "--forced") if forced else (), draws)
    results = _run(probe, questions, policy, model, output, seed, load_config(config, overrides, device))
    _show(
        results,
        as_json,
        "accuracy with random frames (first: before the policy's, last: after)",
        "arm",
        "m",
        "accuracy",
    )


@app.command(short_help="Leave out each picked frame in turn.")
def influence(
    questions: Questions,
    policy: Policy = "haystack-tiny",
    model: Model = None,
    output: Output = OUTPUT,
    frames: Frames = 8,
    seed: Seed = 0,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Leave out each picked frame in turn: what the margin of the right answer loses, by the rank of the pick.

    Running the same command again goes on where it stopped.
    """
    from refocus_video.evaluate.probes.influence import Influence

    results = _run(Influence(frames), questions, policy, model, output, seed, load_config(config, overrides, device))
    _show(results, as_json, "margin lost without a frame, by the rank of its pick", "group", "rank", "influence")


def _run(
    probe: Any,
    questions: Path,
    policy: str,
    model: str | None,
    output: Path,
    seed: int,
    found: Any,
) -> dict[str, Any]:
    from dataclasses import asdict

    from refocus_video.data.evidence import by_video
    from refocus_video.data.examples import fingerprint, read_examples, with_options
    from refocus_video.device import resolve
    from refocus_video.evaluate.answer import Answering
    from refocus_video.evaluate.probes.base import Subject, run_probe
    from refocus_video.evaluation import POLICY, Spec, load_selectors, model_name
    from refocus_video.selectors.learned import Learned
    from refocus_video.train.setup import load_reference, usage_of

    examples = list(with_options(read_examples(questions), f"the probe {probe.kind!r}"))
    who = found.reference if model is None else model_config(found, model)
    where = resolve(found.compute.device)
    (learned,), digests = load_selectors([Spec(POLICY, {POLICY: policy})], where)
    reference = load_reference(who, str(where))
    settings = {
        "questions": str(questions),
        "policy": policy,
        "model": who.model_dump(mode="json"),
        "sampling": found.sampling.model_dump(mode="json"),
        "seed": seed,
        "fingerprints": digests | {"questions": fingerprint(examples)},
        **asdict(probe),
    }
    assert isinstance(learned, Learned), "what the name of the policy stands for"
    subject = Subject(learned.policy, Answering(reference, model_name(who)), found.sampling, seed)
    with only_run(output), progress(f"probing: {probe.kind.replace('_', ' ')}", len(by_video(examples))) as advance:
        results = run_probe(probe, examples, subject, output, settings, advance)
    warn_failures({failure["video"]: failure["reason"] for failure in results["failures"]})
    show_usage(usage_of(reference))
    notes.print(f"figure: {output / probe.kind}.svg", markup=False, soft_wrap=True)
    return results


def _show(results: dict[str, Any], as_json: bool, title: str, down: str, along: str, value: str) -> None:
    """One table of the results: a row for each of one field, a column for each of another."""
    if as_json:
        print_json(results)
        return
    rows = {(row[down], row[along]): row for row in results["rows"]}
    points = list(dict.fromkeys(point for _, point in rows))
    print_table(
        f"{title} ({max((row['n'] for row in rows.values()), default=0)} measured)",
        [along, *("all" if point is None else str(point) for point in points)],
        [
            [name, *(_cell(rows.get((name, point)), value) for point in points)]
            for name in dict.fromkeys(n for n, _ in rows)
        ],
    )


def _cell(row: dict[str, Any] | None, value: str) -> str:
    return "–" if row is None or row[value] is None else f"{row[value]:.2f}"
