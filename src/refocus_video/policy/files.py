"""Files of a checkpoint folder, read and written; which tensors they hold is decided elsewhere.

Weights are one file or several with an index, as safetensors or as ``pytorch_model*.bin``, which is loaded weights-only:
nothing that a file holds is ever run.
"""

import json
import pickle
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from refocus_video.errors import CheckpointError, one_line
from refocus_video.hub import CONFIG_FILE

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
TORCH_FILE = "pytorch_model.bin"
NAMES_SHOWN = 4

_SETTLED_S = 2.0
"""Clocks of file systems are coarse: a file that changed more recently might change again without a sign."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: when the file is missing, no JSON, or no object.
    """
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no {path.name}; give the folder of a saved policy")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: of one file, or of several with an index; safetensors before ``.bin``.

    Raises:
        CheckpointError: when there are none, a file is broken, or the files and the index differ.
    """
    for single in (WEIGHTS_FILE, TORCH_FILE):
        if (folder / single).is_file():
            return _read_file(folder / single)
        if (folder / f"{single}.index.json").is_file():
            return _read_shards(folder, folder / f"{single}.index.json")
    raise CheckpointError(f"{folder} holds no {WEIGHTS_FILE} and no {TORCH_FILE}; give the folder of a saved policy")


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{index}: expected a weight_map from names to files; download the file again")
    files = sorted(set(places.values()))
    missing = [file for file in files if Path(file).name != file or not (folder / file).is_file()]
    if missing:
        raise CheckpointError(f"{index} names files that are not here: {some(missing)}; download them as well")
    weights: dict[str, Tensor] = {}
    for file in files:
        found = _read_file(folder / file)
        named = {name for name, place in places.items() if place == file}
        check_names(f"{folder / file} and its index differ", found.keys(), named)
        weights |= found
    return weights


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU.

    Raises:
        CheckpointError: when it is not a whole file of safetensors.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None
    return tensors


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """What is said about a file that is not readable as safetensors."""
    return CheckpointError(
        f"{path} is not readable as safetensors ({one_line(error)}); it may be cut off: copy or download it again"
    )


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is not readable as weights alone: {one_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(part, Tensor) for part in found.values()):
        raise CheckpointError(f"{path}: expected tensors by name; give the file of a whole model's weights")
    return found


def folder_stamp(folder: Path) -> str | None:
    """Names a folder's weights and settings as they are now, without reading them; None if they have only just changed.

    Path, size, inode, and the times of the last change of content and of anything else about the file: the last one cannot be set
    back, so files that were replaced have another stamp even where their size and date are the old ones.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    stats = [path.stat() for path in files]
    if any(time.time() - stat.st_ctime < _SETTLED_S for stat in stats):
        return None
    rows = [
        [str(path.resolve()), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]
        for path, stat in zip(files, stats, strict=True)
    ]
    return json.dumps(rows)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Make weights those of a module, whose own may be on the meta device.

    Raises:
        CheckpointError: naming the weights that are missing, unexpected, or of another shape.
    """
    expected = module.state_dict()
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    check_names(f"{source}: the weights do not fit the model of {CONFIG_FILE}", weights.keys(), expected.keys(), shapes)
    _check_numbers(weights, expected, source)
    module.load_state_dict(dict(weights), assign=True)


def _check_numbers(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are no numbers to compute with: whole ones where fractions belong, NaN and infinity."""
    for name, tensor in expected.items():
        found = weights[name]
        if found.is_floating_point() != tensor.is_floating_point():
            wanted = "floating-point" if tensor.is_floating_point() else "whole"
            kind = str(found.dtype).removeprefix("torch.")
            raise CheckpointError(f"{source}: {name} is {kind}, expected {wanted} numbers; save or download it again")
        # The sum first: one quick pass without a copy. It may overflow where every weight is finite.
        if not found.sum(dtype=torch.float32).isfinite() and not found.isfinite().all():
            raise CheckpointError(
                f"{source}: {name} holds NaN or infinity: the file is damaged, or training ran away; take an earlier one"
            )


def check_names(problem: str, found: Iterable[str], expected: Iterable[str], shapes: Iterable[str] = ()) -> None:
    """Raise :class:`CheckpointError` naming what is missing, unexpected or of another shape, if anything is."""
    found, expected = set(found), set(expected)
    lists = {"missing": expected - found, "unexpected": found - expected, "wrong shape": set(shapes)}
    parts = [f"{len(names)} {kind} ({some(names)})" for kind, names in lists.items() if names]
    if parts:
        raise CheckpointError(f"{problem}: {'; '.join(parts)}")


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f", and {more} more" if more > 0 else "")
