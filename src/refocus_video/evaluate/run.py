"""Runs an evaluation: selectors and controls choose, a model answers, one row each.

Two files grow video by video and are gone on with after a kill: ``selections.jsonl``, which can be used with other models, and
``rows.jsonl``.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from refocus_video.data.evidence import by_video
from refocus_video.data.selections import Chosen, check_same_pools
from refocus_video.errors import ConfigError
from refocus_video.evaluate.answer import Answering, answer
from refocus_video.evaluate.choose import Choosing, choose
from refocus_video.evaluate.stages import Stages
from refocus_video.files import read_settings, write_json
from refocus_video.types import Example

FILES = ("evaluation.json", "selections.jsonl", "rows.jsonl")
"""What an evaluation writes: what it is of, what was chosen, what was answered."""


def evaluate(
    examples: Sequence[Example],
    answering: Sequence[Answering],
    plan: Choosing,
    output: Path,
    settings: dict[str, Any],
    progress: Callable[[], None] = lambda: None,
    *,
    given: Sequence[Chosen] = (),
) -> list[dict[str, Any]]:
    """Write ``output/selections.jsonl`` and ``output/rows.jsonl``, and return the rows of the latter.

    What each stage took is in ``output/stages.json``, also after an interruption: see :mod:`~refocus_video.evaluate.stages`.

    ``given`` are choices made before, to be answered as well.

    ``progress`` is called once a video for the choosing and once for each answering model: see :func:`units`.

    Raises:
        ConfigError: if ``output`` holds rows of other settings.
        DataError: if choices of one video were made from different candidates.
    """
    described = {
        "settings": settings,
        "names": plan.names,
        "budgets": plan.budgets,
        "models": [model.name for model in answering],
    }
    check_settings(output, described)
    stages = Stages()
    try:
        chosen = [*choose(examples, plan, output / FILES[1], progress, stages), *given]
        check_same_pools(chosen)
        path = output / FILES[2]
        return [row for model in answering for row in answer(chosen, examples, model, path, progress, stages)]
    finally:
        stages.keep(output)


def units(examples: Sequence[Example], models: int) -> int:
    """How often :func:`evaluate` reports progress."""
    return len(by_video(examples)) * (1 + models)


def check_settings(output: Path, described: dict[str, Any]) -> None:
    """Note what a folder's rows are of, or find it the same as before.

    Raises:
        ConfigError: if they are of other settings.
    """
    path = output / FILES[0]
    now = json.loads(json.dumps(described))
    begun = any((output / name).exists() for name in FILES[1:])
    if begun and (not path.exists() or read_settings(path) != now):
        raise ConfigError(f"{output} holds results of other settings; choose another folder or remove it")
    write_json(path, now)
