"""Training state on disk, without pickle: safetensors for tensors, JSON for the rest.

A snapshot is a folder ``checkpoint-000100`` that appears whole or not at all. It holds the policy in the format that users
load, and what the optimiser needs to go on bit for bit.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from refocus_video.errors import CheckpointError, one_line
from refocus_video.policy.files import read_weights
from refocus_video.policy.policy import FramePolicy

PREFIX = "checkpoint-"


def save_snapshot(
    output: Path, step: int, policy: FramePolicy, optimizer: torch.optim.Optimizer, state: dict[str, Any], keep: int = 2
) -> Path:
    """Write ``output/checkpoint-STEP`` and remove all but the ``keep`` newest."""
    output.mkdir(parents=True, exist_ok=True)
    final = output / f"{PREFIX}{step:06d}"
    temporary = Path(tempfile.mkdtemp(dir=output, prefix=".checkpoint-"))
    policy.save_pretrained(temporary)
    tensors = {
        f"{number}.{name}": value.contiguous()
        for number, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    save_file(tensors, temporary / "optimizer.safetensors")
    (temporary / "trainer.json").write_text(json.dumps({**state, "step": step}, indent=2), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    temporary.chmod(0o755)
    temporary.replace(final)
    for old in list_snapshots(output)[:-keep]:
        shutil.rmtree(old)
    return final


def list_snapshots(output: Path) -> list[Path]:
    """Snapshots in a run's folder, oldest first."""
    return sorted(path for path in output.glob(f"{PREFIX}*") if path.is_dir())


def read_history(output: Path) -> list[dict[str, Any]]:
    """The numbers of every step that a run has saved."""
    path = output / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def load_snapshot(folder: Path, policy: FramePolicy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put a snapshot back into a policy and its optimiser; returns the state that was saved with it.

    Raises:
        CheckpointError: if the folder is incomplete or was written by a policy of another size.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "optimizer.safetensors")
        weights = read_weights(folder)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is not a complete training checkpoint: no {Path(error.filename or '').name}"
        ) from None
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
