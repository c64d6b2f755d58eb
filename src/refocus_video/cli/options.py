"""Options that several commands share, and the settings they lead to."""

from pathlib import Path
from typing import Annotated, Any

import typer

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
