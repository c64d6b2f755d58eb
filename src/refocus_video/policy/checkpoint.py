"""Policies on disk: config.json, model.safetensors and the tokenizer's files in one folder.

Files are written to a temporary name, flushed to the disk and renamed, and config.json comes last: a folder with a
config.json is complete. Released ReFoCUS selectors are read as well (released.py). Nothing is ever pickled.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from refocus_video.config import PolicyConfig
from refocus_video.errors import CheckpointError
from refocus_video.policy.prompt import Tokenizer
from refocus_video.policy.released import RELEASED_TYPE, convert

MODEL_TYPE = "refocus-video"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
NAMES_SHOWN = 4


def save_folder(folder: Path, config: PolicyConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write a policy; an existing one is replaced file by file."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    tokenizer.save_pretrained(folder)
    write_atomically(folder / WEIGHTS_FILE, lambda path: save_file(tensors, path, {"format": "pt"}))
    text = json.dumps({"model_type": MODEL_TYPE, **config.model_dump()}, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk, and rename it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_folder(name: str | Path, tokenizer: Tokenizer | None) -> tuple[PolicyConfig, dict[str, Tensor], Tokenizer]:
    """Settings, weights and tokenizer of a local folder or a hub id, in our format or the released one.

    Raises:
        CheckpointError: when the folder or a file of it is missing or not readable.
    """
    folder = _local_folder(name)
    values = _read_config(folder)
    weights = _read_weights(folder)
    kind = values.pop("model_type", None)
    if kind == RELEASED_TYPE:
        config, weights = convert(values, weights, str(folder))
    elif kind == MODEL_TYPE:
        config = PolicyConfig.parse(values, str(folder / CONFIG_FILE))
    else:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: model_type must be {MODEL_TYPE!r} or {RELEASED_TYPE!r}, found {kind!r}"
        )
    return config, weights, tokenizer if tokenizer is not None else _read_tokenizer(folder)


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
    problems = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "wrong shape": shapes,
    }
    found = [f"{len(names)} {kind} ({_some(names)})" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{source}: the weights do not fit the model of {CONFIG_FILE}: {'; '.join(found)}")
    module.load_state_dict(dict(weights), assign=True)


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f", and {more} more" if more > 0 else "")


def _local_folder(name: str | Path) -> Path:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    text = str(name)
    # A hub id is `owner/name`; anything else can only be meant as a folder.
    if isinstance(name, Path) or text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise CheckpointError(f"no policy folder at {name}; give a folder with a {CONFIG_FILE}, or a hub id owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"no folder {text!r} here, and the Hugging Face Hub did not give it either: {reason}"
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {CONFIG_FILE}; give the folder of a saved policy")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder: one file, or several with an index as the hub's larger models have."""
    paths = [folder / WEIGHTS_FILE] if (folder / WEIGHTS_FILE).is_file() else []
    paths = paths or sorted(folder.glob("model-*.safetensors"))
    if not paths:
        raise CheckpointError(f"{folder} holds no {WEIGHTS_FILE}; give the folder of a saved policy")
    weights: dict[str, Tensor] = {}
    for path in paths:
        try:
            weights |= load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not readable as safetensors: {error}") from None
    return weights


def _read_tokenizer(folder: Path) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    if not (folder / TOKENIZER_FILE).is_file():
        raise CheckpointError(f"{folder} holds no {TOKENIZER_FILE}; save the policy's tokenizer in the same folder")
    # Not AutoTokenizer: it looks our model type up in its own list, and warns that it is not there.
    try:
        tokenizer: Tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / TOKENIZER_FILE} is not readable: {reason}") from None
    return tokenizer
