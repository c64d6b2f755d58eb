"""``refocus``: the commands. Errors a user can cause are one line on stderr and exit code 2."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from refocus_video.cli.choose import choose
from refocus_video.cli.console import notes, only_run, print_json, print_table, progress, show_usage, warn_failures
from refocus_video.cli.data import app as data
from refocus_video.cli.eval import eval_, print_results, selectors
from refocus_video.cli.filter import filter_
from refocus_video.cli.haystack import app as haystack
from refocus_video.cli.index import app as index
from refocus_video.cli.init import init
from refocus_video.cli.needle import needle
from refocus_video.cli.options import (
    AnswerOptions,
    AsJson,
    ByContent,
    CandidateRate,
    ConfigName,
    Device,
    Features,
    Frames,
    MaxCandidates,
    Overrides,
    Policy,
    Questions,
    hide_loading_bars,
    load_config,
    output_folder,
)
from refocus_video.cli.probe import app as probe
from refocus_video.cli.quality import quality
from refocus_video.cli.reference import app as reference
from refocus_video.cli.report import report
from refocus_video.cli.warm_start import warm_start
from refocus_video.errors import CheckpointError, RefocusError, RefocusWarning, one_line


class _InOrder(TyperGroup):
    """Commands and groups of commands in the order of :data:`ORDER`; left alone, typer puts all groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)


ORDER = (
    "select", "index", "demo", "data", "filter", "init", "warm-start", "train", "choose", "eval", "report", "quality",
    "needle", "probe", "reference", "selectors", "haystack", "env", "verify-checkpoint",
)  # fmt: skip
"""How ``refocus --help`` lists them: to try, to train, to measure, and what helps along."""

app = typer.Typer(
    name="refocus",
    cls=_InOrder,
    help="Choose the few frames of a video from which a large multimodal model answers a question best.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(index, name="index")
app.add_typer(data, name="data")
app.add_typer(probe, name="probe")
app.add_typer(reference, name="reference")
app.add_typer(haystack, name="haystack")
app.command("filter", short_help="Keep questions for which the choice of frames matters.")(filter_)
app.command("init", short_help="Make a fresh policy from pretrained parts.")(init)
app.command("warm-start", short_help="Teach a policy an image–text model's picks.")(warm_start)
app.command("choose", short_help="Pick frames for a file of questions.")(choose)
app.command("eval", short_help="Compare the policy with other ways of picking.")(eval_)
app.command("report", short_help="Put evaluations side by side.")(report)
app.command("quality", short_help="Measure picked frames against evidence.")(quality)
app.command("needle", short_help="Hide something in a film and see who finds it.")(needle)
app.command("selectors", short_help="List the ways of picking frames.")(selectors)

INTERRUPTED = 130
"""Exit code of a command that was stopped by Ctrl-C."""


def main() -> None:
    """Entry point of the ``refocus`` command."""
    try:
        with _warnings_as_lines():
            code = app(prog_name="refocus", standalone_mode=False)
    except RefocusError as error:
        _stop(f"refocus: {error}", 2)
    except OSError as error:  # a full disk, a folder that is gone or may only be read: a write names no file
        unnamed = f"a file cannot be read or written: {one_line(error)}; see to the disk and run the same command again"
        _stop(f"refocus: {unnamed if error.filename is None else f'{error.filename}: {one_line(error)}'}", 2)
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # not imported: help loads nothing large
            _stop(f"refocus: a file of tensors cannot be read or written: {one_line(error)}", 2)
        # A wrong option or a missing argument. Typer carries its own copy of click, so the class has no public name.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        _stop(_usage(explain(), getattr(error, "ctx", None)), 2)
    if code == INTERRUPTED:  # typer turns Ctrl-C into this value
        _stop("refocus: stopped; the same command goes on from here", INTERRUPTED)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print our own warnings as one line each; those of libraries as ever."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, RefocusWarning):
            notes.print(f"refocus: {message}", markup=False, soft_wrap=True)
        else:
            shown(message, category, *rest, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def _usage(message: str, context: Any) -> str:
    """One line about a wrong command line; the whole help where nothing but a group's name was given."""
    if message.startswith("Usage:"):
        return message
    hint = f"; see `{context.command_path} --help`" if context is not None else ""
    return f"refocus: {' '.join(message.split()).rstrip('.?')}{hint}"


def _stop(message: str, code: int) -> NoReturn:
    notes.print(message, markup=False, soft_wrap=True)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        from refocus_video import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command(short_help="Pick the frames of VIDEO that matter for QUESTION.")
def select(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file.", show_default=False)],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What you want to know.", show_default=False)],
    frames: Frames = 8,
    option: AnswerOptions = None,
    policy: Policy = "haystack-tiny",
    temperature: Annotated[float | None, typer.Option(help="Sample at this temperature; greedy if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="greedy, sample, or of several samples the most probable (best-of), the rank head's choice "
            "(best-of-rank) or the frames most of them hold (marginal); as --temperature says if left out.",
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Samples to choose among; 64 if left out.")] = None,
    min_gap: Annotated[float, typer.Option(metavar="SECONDS", help="Frames lie at least so many seconds apart.")] = 0.0,
    force: Annotated[
        list[int] | None,
        typer.Option(metavar="POSITION", help="A candidate (0 is the first) to pick first; repeat for each."),
    ] = None,
    fps: CandidateRate = 4.0,
    max_candidates: MaxCandidates = 512,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor write a stored index of the video.")
    ] = False,
    by_content: ByContent = False,
    device: Device = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Image of the picked frames to write, and of --explain beside it; none if left out."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show what the policy thought at each pick; with --sheet also as a picture."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Pick the frames of VIDEO that matter for QUESTION.

    Prints frame index, time and probability of each pick; --sheet writes a contact sheet. The video is indexed once: further
    questions are answered from the stored index (see `refocus index`).
    """
    from refocus_video.cli.select import run_select

    run_select(
        video,
        question,
        tuple(option or ()),
        frames=frames,
        policy=policy,
        temperature=temperature,
        seed=seed,
        strategy=strategy,
        samples=samples,
        min_gap=min_gap,
        forced=tuple(force or ()),
        fps=fps,
        max_candidates=max_candidates,
        no_cache=no_cache,
        by_content=by_content,
        device=device or "auto",
        sheet=sheet,
        explain=explain,
        as_json=as_json,
    )


@app.command(short_help="Train a policy by reinforcement learning.")
def train(
    questions: Questions,
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for checkpoints, metrics and the policy.",
            callback=output_folder,
        ),
    ] = Path("runs/train"),
    features: Features = None,
    device: Device = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a policy by reinforcement learning from the reference model's scores alone.

    Running the same command again goes on from the newest checkpoint.
    """
    from refocus_video.pipeline import train_policy

    with only_run(output):
        numbers = train_policy(questions, output, load_config(config, overrides, device), progress, features=features)
    if as_json:
        print_json(numbers)
    else:
        last = numbers["last"]
        notes.print(f"policy: {numbers['policy']}   steps: {last['step']}   reward: {last['reward']:.2f}", markup=False)
        warn_failures(numbers["failures"])
        show_usage(numbers["usage"])


@app.command(short_help="Do the whole job on a laptop, down to a report.")
def demo(
    output: Annotated[
        Path,
        typer.Option(
            help="Where everything goes.",
            callback=output_folder,
        ),
    ] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of videos, policy and training.")] = 0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """The whole job on a laptop: make videos, train a policy from reward alone, evaluate it, write report.html."""
    from refocus_video.demo import run_demo

    hide_loading_bars()
    with only_run(output):
        results = run_demo(output, seed, tuple(overrides or ()), progress)
    if as_json:
        print_json(results)
    else:
        print_results(results)
        notes.print(f"report: {output / 'report.html'}", markup=False, soft_wrap=True)


@app.command("verify-checkpoint", short_help="Check a released checkpoint's numbers.")
def verify_checkpoint(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A checkpoint with inputs.safetensors and expected.safetensors."),
    ],
    as_json: AsJson = False,
) -> None:
    """Compare what a released checkpoint computes here with the numbers that lie beside it."""
    from refocus_video.policy.verify import verify_checkpoint as verify

    rows = verify(folder)
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        print_table(str(folder), ["tensor", "largest error", "limit", ""], [
            [row.name, f"{row.error:.1e}", f"{row.limit:.0e}", "ok" if row.ok else "DIFFERS"] for row in rows
        ])  # fmt: skip
    if not all(row.ok for row in rows):
        raise CheckpointError(f"{folder}: {sum(not row.ok for row in rows)} of {len(rows)} tensors differ")


@app.command(short_help="Show versions, devices and what runs on them.")
def env(as_json: AsJson = False) -> None:
    """Show versions, devices and what runs on them: what a bug report should begin with."""
    from refocus_video.cli.env import run_env

    run_env(as_json)
