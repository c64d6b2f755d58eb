"""Policies on disk: config.json, model.safetensors and the tokenizer's files in one folder.

config.json is written last: a folder with a config.json is complete. The format of the released ReFoCUS selectors is
read and written as well (released.py). Nothing is ever pickled.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from refocus_video.assets import locate
from refocus_video.config import PolicyConfig, VisionConfig
from refocus_video.errors import CheckpointError, one_line
from refocus_video.files import replacing, write_json
from refocus_video.hub import CONFIG_FILE, TEXT_FILES, local_folder
from refocus_video.policy.files import INDEX_FILE, WEIGHTS_FILE, folder_stamp, read_json, read_weights
from refocus_video.policy.prompt import Tokenizer
from refocus_video.policy.released import (
    RELEASED_TYPES,
    SAVED_TOWER,
    Released,
    from_released,
    to_released,
    tower_config_json,
)

MODEL_TYPE = "refocus-video"
TOKENIZER_FILE = "tokenizer.json"
RELEASED_TOKENIZER = "EleutherAI/gpt-neox-20b"
"""What the published code always uses, whatever lies beside the weights (METHOD §3)."""

MAX_SHARD_SIZE: int | str = "5GB"
"""Weights beyond this go to several files."""

logger = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """All that a checkpoint folder gives."""

    config: PolicyConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer
    released: Released | None
    stamp: str | None
    """Names exactly the files that all weights were read from; None where that is not sure."""


def save_folder(folder: Path, config: PolicyConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write a policy in our format; an existing one is replaced file by file."""
    _write(folder, {"model_type": MODEL_TYPE, **config.model_dump()}, weights, tokenizer)


def save_released_folder(
    folder: Path,
    config: PolicyConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    released: Released | None,
) -> None:
    """Write a policy in the released format; ``released`` is what it was loaded with, if it was.

    Raises:
        CheckpointError: when that format cannot express the policy.
    """
    fields, tensors = to_released(config, weights, released)
    if fields["mm_vision_tower"] == SAVED_TOWER:
        (folder / SAVED_TOWER).mkdir(parents=True, exist_ok=True)
        write_json(folder / SAVED_TOWER / CONFIG_FILE, tower_config_json(config.vision))
    _write(folder, fields, tensors, tokenizer)


def _write(folder: Path, fields: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    tokenizer.save_pretrained(folder)
    _write_weights(folder, tensors)
    write_json(folder / CONFIG_FILE, fields)


def _write_weights(folder: Path, tensors: dict[str, Tensor]) -> None:
    """One file, or several with an index where they are large; what an earlier save left beside them is removed last."""
    pattern = WEIGHTS_FILE.replace(".", "{suffix}.")
    plan = split_torch_state_dict_into_shards(tensors, filename_pattern=pattern, max_shard_size=MAX_SHARD_SIZE)
    for file, names in plan.filename_to_tensors.items():
        with replacing(folder / file) as path:
            save_file({name: tensors[name] for name in names}, path, {"format": "pt"})
    written = set(plan.filename_to_tensors)
    if plan.is_sharded:
        written.add(INDEX_FILE)
        write_json(folder / INDEX_FILE, {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename})
    earlier = [*folder.glob(pattern.format(suffix="-*-of-*")), folder / WEIGHTS_FILE, folder / INDEX_FILE]
    for path in earlier:
        if path.name not in written:
            path.unlink(missing_ok=True)


def load_folder(
    name: str | Path,
    tokenizer: Tokenizer | None,
    vision: VisionConfig | None = None,
    vision_tower: str | Path | None = None,
) -> Loaded:
    """What a local folder or a hub id holds, in our format or the released one.

    Raises:
        CheckpointError: when the folder or a file of it is missing or not readable.
    """
    folder = local_folder(locate(str(name), "policy"), "policy folder")
    stamp = folder_stamp(folder)
    inside = folder / "policy"  # where a training run puts it
    holds_one = (inside / CONFIG_FILE).is_file()
    fields = {} if holds_one and not (folder / CONFIG_FILE).is_file() else read_json(folder / CONFIG_FILE)
    kind = fields.get("model_type")
    if kind is None and holds_one:
        raise CheckpointError(f"{folder} is no policy, but there is one in {inside}; give that folder")
    if kind in RELEASED_TYPES:
        config, weights, released = from_released(fields, read_weights(folder), folder, vision, vision_tower)
        if released.unused:
            logger.info("%s: weights that are not used: %s", folder, ", ".join(sorted(released.unused)))
        same = released.tower_inside and folder_stamp(folder) == stamp
        words = tokenizer or _read_tokenizer(folder, RELEASED_TOKENIZER)
        return Loaded(config, weights, words, released, stamp if same else None)
    if kind != MODEL_TYPE:
        known = ", ".join(repr(each) for each in (MODEL_TYPE, *RELEASED_TYPES))
        raise CheckpointError(f"{folder / CONFIG_FILE}: model_type must be one of {known}; found {kind!r}")
    if vision is not None or vision_tower is not None:
        raise CheckpointError(f"{folder} is in our own format and holds its vision tower; leave vision settings out")
    del fields["model_type"]
    weights = read_weights(folder)
    config = PolicyConfig.parse(fields, str(folder / CONFIG_FILE))
    words = tokenizer or _read_tokenizer(folder)
    return Loaded(config, weights, words, None, stamp if folder_stamp(folder) == stamp else None)


def _read_tokenizer(folder: Path, otherwise: str | None = None) -> Tokenizer:
    from transformers import PreTrainedTokenizerFast

    if not (folder / TOKENIZER_FILE).is_file():
        if otherwise is None:
            raise CheckpointError(f"{folder} holds no {TOKENIZER_FILE}; save the policy's tokenizer in the same folder")
        folder = local_folder(otherwise, f"tokenizer ({folder} holds no {TOKENIZER_FILE})", TEXT_FILES)
    # Not AutoTokenizer: it looks our model type up in its own list, and warns that it is not there.
    try:
        tokenizer: Tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(f"{folder / TOKENIZER_FILE} is not readable: {one_line(error)}") from None
    return tokenizer
