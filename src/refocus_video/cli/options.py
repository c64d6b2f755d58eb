"""Options that several commands share, and the settings they lead to."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refocus_video.cli.console import notes
from refocus_video.errors import DataError, RefocusError
from refocus_video.files import check_folder

if TYPE_CHECKING:
    from refocus_video.evaluation import Spec

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. --set train.max_steps=100. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
ConfigName = Annotated[
    str | None,
    typer.Option(
        "--config", help="YAML file, or haystack, lite, paper-v1, paper-v2. The paper's second version if left out."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cuda, cuda:1, mps or cpu; the first of them that is there if left out."),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="Folder for what frozen models see of the videos; one in the cache, shared by all runs, if left out."
    ),
]
Questions = Annotated[
    Path, typer.Argument(metavar="QUESTIONS", help="JSONL file of questions, one object a line.", show_default=False)
]
Policy = Annotated[str, typer.Option(help="Folder or hub id of a trained policy.")]
Frames = Annotated[int, typer.Option("--frames", "-k", min=1, help="How many frames to pick.")]
Budgets = Annotated[str, typer.Option(help="How many frames to pick, comma-separated.")]
Selectors = Annotated[
    list[str] | None,
    typer.Option(
        "--selector",
        metavar="NAME,KEY=VALUE",
        help="Who picks, e.g. aks,relevance=google/siglip2-base-patch16-224, or all,relevance=…; repeatable. uniform, "
        "random and the policy, most probable and sampled, if left out.",
    ),
]
Controls = Annotated[
    bool, typer.Option("--controls/--no-controls", help="Oracle, query-blind and wrong-question picks as well.")
]
AnswerOptions = Annotated[
    list[str] | None, typer.Option("--option", metavar="TEXT", help="An answer option; repeat for each.")
]
CandidateRate = Annotated[float, typer.Option("--fps", help="Candidate frames a second.")]
MaxCandidates = Annotated[int, typer.Option(help="At most this many candidate frames; 0 for no limit.")]
ByContent = Annotated[
    bool, typer.Option("--by-content", help="Know a video by its bytes instead of path, size and time of change.")
]


def output_folder(folder: Path | None) -> Path | None:
    """Of an option: refuses what is a file when the command line is read, before any work is done."""
    if folder is not None:
        check_folder(folder)
    return folder


def output_file(path: Path) -> Path:
    """Of an option: refuses what is a folder, or would lie in a file."""
    if path.is_dir():
        raise RefocusError(f"{path} is a folder; give the name of a file")
    check_folder(path.parent)
    return path


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    Raises:
        DataError: if they are not.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{option} takes whole numbers separated by commas, found {text!r}") from None


def model_config(config: Any, text: str, option: str = "--model") -> Any:
    """The settings of an answering model written ``NAME,KEY=VALUE``; what it does not name is as in the run's reference."""
    from refocus_video.config import ReferenceConfig
    from refocus_video.evaluation import Spec

    spec = Spec.parse(text)
    values = config.reference.model_dump() | {"model": spec.name} | spec.settings
    return ReferenceConfig.parse(values, f"{option} {spec.name}")


def selector_specs(texts: Sequence[str], policy: str) -> list["Spec"]:
    """Selectors written ``NAME,KEY=VALUE``, with ``policy`` where one wants it; what ``all`` leaves out is told, a line each."""
    from refocus_video.evaluation import named_selectors

    specs, left_out = named_selectors(texts, policy)
    for name, why in left_out.items():
        notes.print(f"left out: {name} {why}", markup=False, soft_wrap=True)
    return specs


def hide_loading_bars() -> None:
    """Keep the bars that transformers shows while it loads weights out of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_config(name: str | None, overrides: list[str] | None, device: str | None = None) -> Any:
    """The run's settings."""
    from refocus_video.config import RunConfig, named_config

    hide_loading_bars()
    given = [] if device is None else [f"compute.device={device}"]
    return RunConfig.load(None if name is None else named_config(name), (*given, *(overrides or ())))
