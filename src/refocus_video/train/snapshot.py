"""Training state on disk, without pickle: safetensors for tensors, JSON for the rest.

A snapshot is a folder ``checkpoint-000100`` that appears whole or not at all. It holds the policy in the format that users
load, what the optimiser needs to go on bit for bit, the numbers of all steps so far, and, written last, the checksums of all files.
Going on takes the newest one whose files are those that were written.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from refocus_video.errors import CheckpointError, DataError, one_line
from refocus_video.files import digest_of, sync, write_json, write_jsonl
from refocus_video.policy.files import read_weights
from refocus_video.policy.policy import FramePolicy

PREFIX = "checkpoint-"
COMPLETE = "complete.json"
"""The checksum of every other file of a snapshot."""
METRICS = "metrics.jsonl"
_REPLACED = ".replaced"
"""Ends the name of a snapshot while a new one of the same step takes its place."""


def save_snapshot(
    output: Path,
    step: int,
    policy: FramePolicy,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    history: list[dict[str, Any]],
    keep: int = 2,
) -> Path:
    """Write ``output/checkpoint-STEP`` and remove all but the ``keep`` newest.

    Later ones can only be those that going on passed over as damaged: they are removed too, and so is what killed runs left.

    Raises:
        CheckpointError: if it cannot be written.
    """
    final = output / f"{PREFIX}{step:06d}"
    with _writing(output) as temporary:
        policy.save_pretrained(temporary)
        tensors = {
            f"{number}.{name}": value.contiguous()
            for number, slots in optimizer.state_dict()["state"].items()
            for name, value in slots.items()
        }
        save_file(tensors, temporary / "optimizer.safetensors")
        write_json(temporary / "trainer.json", {**state, "step": step})
        write_jsonl(temporary / METRICS, history)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        for path in files:
            sync(path)
        write_json(temporary / COMPLETE, {path.relative_to(temporary).as_posix(): digest_of(path) for path in files})
        temporary.chmod(0o755)
        replaced = final.with_name(final.name + _REPLACED)
        if (
            final.exists()
        ):  # a folder cannot be put over another: the old one stays, under a name that is found, until then
            shutil.rmtree(replaced, ignore_errors=True)
            final.replace(replaced)
        temporary.replace(final)
        sync(output)
    shutil.rmtree(replaced, ignore_errors=True)
    found = list_snapshots(output)
    place = found.index(final)
    for old in [*found[: max(0, place + 1 - keep)], *found[place + 1 :]]:
        shutil.rmtree(old, ignore_errors=True)
    return final


@contextmanager
def _writing(output: Path) -> Iterator[Path]:
    """A folder for a snapshot to be, the only one of its kind: one run at a time works here."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        for left in output.glob(f".{PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=output, prefix=f".{PREFIX}"))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot keep a checkpoint in {output} ({one_line(error)}); free some space or choose another --output"
        ) from None


def list_snapshots(output: Path) -> list[Path]:
    """Snapshots in a run's folder, whole or not, oldest first."""
    found = [(re.fullmatch(rf"{PREFIX}(\d+)({re.escape(_REPLACED)})?", path.name), path) for path in output.glob("*")]
    places = [(int(match[1]), match[2] is None, path) for match, path in found if match and path.is_dir()]
    return [path for _, _, path in sorted(places)]


def newest_whole(output: Path) -> tuple[Path | None, list[str]]:
    """The newest snapshot that is as it was written, None if there is no snapshot at all; and what is wrong with newer ones.

    Raises:
        CheckpointError: if there are snapshots, and none is whole.
    """
    problems: list[str] = []
    for folder in reversed(list_snapshots(output)):
        problem = what_is_wrong(folder)
        if problem is None:
            return folder, problems
        problems.append(f"{folder} is not a complete training checkpoint: {problem}")
    if problems:
        raise CheckpointError(
            f"{problems[0]}, and there is no older whole one; remove {output} to begin anew, or choose another --output"
        )
    return None, []


def what_is_wrong(folder: Path) -> str | None:
    """Which file of a snapshot is missing or not as it was written; None if it is whole."""
    try:
        digests = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        for name, digest in digests.items():
            if digest_of(folder / name) != digest:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"no {Path(error.filename or COMPLETE).name}"
    except OSError as error:
        return f"{Path(error.filename or COMPLETE).name}: {one_line(error)}"
    except (ValueError, AttributeError, TypeError):
        return f"{COMPLETE} is damaged"
    return None if "trainer.json" in digests else f"{COMPLETE} is damaged"


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The numbers of every step that a run, or a snapshot, has saved.

    Raises:
        DataError: if the file is damaged.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        raise DataError(
            f"{path} is damaged; run the same training again: its checkpoints hold the same numbers"
        ) from None


def load_snapshot(folder: Path, policy: FramePolicy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a whole snapshot back into a policy and its optimiser; returns the state that was saved with it.

    Raises:
        CheckpointError: if it was written by a policy of another size.
    """
    state = read_state(folder)
    tensors = load_file(folder / "optimizer.safetensors")
    weights = read_weights(folder)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        slots.setdefault(int(number), {})[name] = value
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder} was saved by another policy: {one_line(error)}") from None
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state


def read_state(folder: Path) -> dict[str, Any]:
    """What was saved with a whole snapshot besides tensors."""
    state: dict[str, Any] = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
    return state
