"""The choose command's work: every selector and budget over a question file, to one selection file and no further.

It is the first stage of an evaluation alone (``evaluate/choose.py``), for many answering models or none.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refocus_video.config import RunConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.examples import fingerprint, read_examples
from refocus_video.data.selections import check_same_pools
from refocus_video.errors import ConfigError
from refocus_video.evaluate.choose import Choosing, choose
from refocus_video.evaluation import POLICY, Spec, load_selectors
from refocus_video.pipeline import none_usable
from refocus_video.types import Progress


def choose_frames(
    questions: Path,
    specs: Sequence[Spec],
    budgets: Sequence[int],
    output: Path,
    config: RunConfig,
    progress: Progress,
    *,
    controls: bool = False,
) -> dict[str, Any]:
    """Write the selection file ``output``, or go on with it; returns what is printed.

    Raises:
        ConfigError: ``output`` was begun with other settings.
        DataError: a question is malformed, or no video can be used.
    """
    if not budgets or min(budgets) < 1:
        raise ConfigError(f"budgets must be whole numbers of at least 1, found {list(budgets)}")
    examples = read_examples(questions)
    selectors, digests = load_selectors(specs)
    plan = Choosing(
        selectors=tuple(selectors),
        budgets=tuple(budgets),
        sampling=config.sampling,
        ideals=("query-blind", "oracle") if controls else (),
        wrong_question_of=POLICY if controls else None,
        seed=config.train.seed,
    )
    about = {
        "budgets": list(budgets),
        "specs": [str(spec) for spec in specs],
        "seed": config.train.seed,
        "fingerprints": digests | {"questions": fingerprint(examples)},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    _check_begun(output, plan.manifest | about)
    with progress(f"choosing for {questions.stem}", len(by_video(examples))) as advance:
        rows = choose(examples, plan, output, advance, about=about)
    check_same_pools(rows)
    if all(row.error for row in rows):
        output.unlink()  # or running again would not look at the videos again
        raise none_usable({row.video: str(row.error) for row in rows})
    return {
        "output": str(output),
        "questions": len(examples),
        "videos": len(by_video(examples)),
        "rows": dict(Counter(row.selector for row in rows)),
        "fewer_than_budget": dict(Counter(row.budget for row in rows if 0 < len(row.frame_indices) < row.budget)),
        "without_frames": dict(Counter(row.selector for row in rows if row.error)),
        "failures": {row.video: row.error for row in rows if row.error},
    }


def _check_begun(path: Path, manifest: dict[str, Any]) -> None:
    """Refuse to add to a selection file of other settings; a first line that a kill has cut is begun anew."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        line = stream.readline()
    if not line.endswith(b"\n"):
        return
    try:
        found = json.loads(line)["manifest"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path} is there and no selection file; choose another name") from None
    wanted = json.loads(json.dumps(manifest))
    if found != wanted:
        key = next(key for key in (*wanted, *found) if found.get(key) != wanted.get(key))
        raise ConfigError(
            f"{path} holds selections of other settings ({key}: {found.get(key)} there, {wanted.get(key)} asked for); "
            "choose another name or remove it"
        )
