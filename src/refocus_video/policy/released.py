"""The format of the published ReFoCUS selectors, read and written (METHOD §3).

Names differ, and a few things have no counterpart here: the tower's last layer, post-layernorm and pooling head, and the
output projection of the language model. Such weights are kept by name in :class:`Released`, so that a checkpoint which is
loaded and written again has the same keys, values and settings. Any other weight that does not fit is an error, and so is
an option that we do not compute, because ignoring it would give other picks.

Where the published code decides what a config.json leaves open, so do we:

1. Without ``frame_generation_method``, a selector is a "block" one.
2. A normalised value head is followed by an elementwise scale; so is one whose norm is the *text* "False". That scale is
   folded into the head.
3. The picture size, depth and heads of the tower are those of the tower that ``mm_vision_tower`` names, and its last layer
   does not run. Where we know no such tower, they must be given, since a wrong number of heads would load without complaint.

Our settings that this format has no field for (prompt, chunk size, ...) go to an object ``refocus_video`` in config.json,
which the published code does not read. It is left out where it would be empty.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refocus_video.config import HeadNorm, PolicyConfig, VisionConfig
from refocus_video.errors import CheckpointError
from refocus_video.hub import CONFIG_FILE
from refocus_video.policy.files import read_json
from refocus_video.policy.tower import runs, tower_folder, tower_weights

RELEASED_TYPES = ("refocus", "llava_mamba", "mamba2")
"""Today's name of the format, and two that older files have."""

TOWERS = {"google/siglip-so400m-patch14-384": VisionConfig()}
"""Towers that are known by name; ``num_hidden_layers`` counts those that run."""

TOWER = "mm_model.vision_tower.vision_tower.vision_model."
TABLE = "backbone.embedding.weight"
OUTPUT = "lm_head.weight"

RENAMES = ((TOWER, "vision.tower."), ("mm_model.mm_projector.", "vision.projector."))
"""Beginnings of names, theirs and ours; all other names are the same."""

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "frame_generation_method": ("block", "autoregressive"),
    "logit_scale_type": ("scalar", "vector"),
    "logit_scale_fn": ("softplus", "exp"),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_spatial_pool_mode": ("bilinear",),
    "mm_spatial_pool_stride": (2,),
    "mm_patch_merge_type": ("flat",),
    "attn_layer_idx": ([],),
    "d_intermediate": (0,),
    "rms_norm": (True,),
}
"""Options and the values that we compute; an option that a config does not state has the first."""

SSM_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "layer": ("Mamba2",),
    "ngroups": (1,),
    "D_has_hdim": (False,),
    "rmsnorm": (True,),
    "norm_before_gate": (False,),
    "bias": (False,),
    "conv_bias": (True,),
    "activation": ("swish", "silu"),
    "dt_limit": ([0.0, float("inf")],),
    "d_ssm": (),
}
"""The same for ``ssm_cfg``; an option without supported values may only be null."""

SSM_SIZES = {"d_state": 128, "headdim": 64, "expand": 2, "d_conv": 4}
"""Sizes in ``ssm_cfg``, with what holds where they are not stated. Anything else there touches speed or training alone."""

NORMS: dict[Any, HeadNorm] = {
    False: "none",
    "False": "none",
    True: "l2",
    "True": "l2",
    "norm": "l2",
    "rmsnorm": "rmsnorm",
}
NORMS_WRITTEN: dict[HeadNorm, Any] = {"none": False, "l2": "norm", "rmsnorm": "rmsnorm"}

OURS = "refocus_video"
"""Key of our own settings in their config.json."""

SAVED_TOWER = "vision_tower"
"""Folder beside the weights that describes a tower without a public name."""


@dataclass(frozen=True, slots=True)
class Released:
    """What a released checkpoint holds beyond a policy."""

    fields: Mapping[str, Any]
    """Its config.json."""
    unused: Mapping[str, Tensor]
    """Weights that the policy does not run, by their released names."""
    tower_inside: bool
    """Whether the tower's weights are in the file, or only its name."""


def from_released(
    fields: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    folder: Path,
    vision: VisionConfig | None = None,
    vision_tower: str | Path | None = None,
) -> tuple[PolicyConfig, dict[str, Tensor], Released]:
    """Our settings and weights from those of a released checkpoint.

    Args:
        fields: its config.json.
        weights: its tensors under their released names.
        folder: where it lies.
        vision: sizes of the tower, instead of those of the named one.
        vision_tower: folder or hub id of the tower, instead of the one named. Weights inside the file go first.

    Raises:
        CheckpointError: when an option is not supported, or something that tells a size is missing.
    """
    check_options(fields, f"{folder / CONFIG_FILE}")
    tower_inside = any(name.startswith(TOWER) for name in weights)
    try:
        place = _tower_place(fields, folder, vision_tower)
        sizes = vision or _vision(fields.get(OURS, {}), place, weights, tower_inside)
        config = _config(fields, weights, sizes, f"{folder / CONFIG_FILE}")
        renamed, unused = _sort(weights, sizes.num_hidden_layers)
        if not tower_inside:
            found = tower_weights(tower_folder(place))
            layers = sizes.num_hidden_layers
            renamed |= {"vision.tower." + name: part for name, part in found.items() if runs(name, layers)}
        table = renamed[TABLE]
        if config.frame_generation_method == "autoregressive":
            renamed["start_of_frame"] = _start_row(table, fields["start_of_frame_token_id"], str(folder))
    except KeyError as error:
        raise CheckpointError(f"{folder}: a released checkpoint needs {error.args[0]!r}, which is missing") from None
    renamed[TABLE] = table[: config.vocab_size]
    if config.value_head_norm == "none" and "value_head_scale" in renamed and fields.get("value_head_norm"):
        scale = renamed.pop("value_head_scale")
        renamed["value_head.weight"] = renamed["value_head.weight"] * scale[:, None]
        renamed["value_head.bias"] = renamed["value_head.bias"] * scale
    return config, renamed, Released(fields, unused, tower_inside)


def to_released(
    config: PolicyConfig, weights: Mapping[str, Tensor], released: Released | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A released config.json and weights from ours.

    Args:
        config: of the policy.
        weights: its tensors under our names.
        released: what it was loaded with, if it was: its fields and unused weights are written again.

    Raises:
        CheckpointError: when the published code could not run the policy.
    """
    if (config.pool_stride, config.pool_mode, config.merge) != (2, "bilinear", 1):
        raise CheckpointError(
            "the released format knows tokens from bilinear pooling at stride 2 without merging alone, found "
            f"pool_mode {config.pool_mode}, pool_stride {config.pool_stride}, merge {config.merge}; "
            "save in our own format instead (save_pretrained)"
        )
    tensors = {_their_name(name): tensor for name, tensor in weights.items() if name != "start_of_frame"}
    table = tensors[TABLE]
    fields = dict(released.fields) if released is not None else _fields(config, len(table))
    if "start_of_frame" in weights:
        start, row = weights["start_of_frame"][None], int(fields["start_of_frame_token_id"])
        tensors[TABLE] = torch.cat([table[:row], start, table[row + 1 :]])
    if released is None:
        # The published code has a post-layernorm whose output it does not use.
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            tensors[f"{TOWER}post_layernorm.{name}"] = table.new_full((config.vision.hidden_size,), value)
        fields |= _unexpressed(config, fields, tensors) | {"dtype": None}
    else:
        if fields.get("value_head_norm") and config.value_head_norm == "none" and "value_head.bias" in tensors:
            tensors["value_head_scale"] = torch.ones_like(tensors["value_head.bias"])
        if not released.tower_inside:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(TOWER)}
        tensors |= {
            name: part.to(table) if part.is_floating_point() else part for name, part in released.unused.items()
        }
        if OUTPUT in tensors and fields.get("tie_embeddings", True):
            tensors[OUTPUT] = tensors[TABLE].clone()
    stated = [key for key in ("dtype", "torch_dtype") if key in fields]
    return fields | dict.fromkeys(stated, str(table.dtype).removeprefix("torch.")), tensors


def tower_config_json(vision: VisionConfig) -> dict[str, Any]:
    """config.json of a SigLIP tower, with the layer that does not run."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers + 1,
        "num_attention_heads": vision.num_attention_heads,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
    }


def read_tower_config(folder: Path) -> VisionConfig:
    """The sizes of a SigLIP checkpoint as a policy runs it: without its last layer.

    Raises:
        CheckpointError: when the folder holds another kind of model.
    """
    values = read_json(folder / CONFIG_FILE)
    values = values.get("vision_config", values)
    expected = {
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "num_channels": 3,
    }
    for key, only in expected.items():
        if values.get(key, only) != only:
            raise CheckpointError(f"{folder / CONFIG_FILE}: {key}={values[key]!r} is not supported, only {only!r}")
    # What such a file leaves out has the default of transformers.SiglipVisionConfig, not ours.
    sizes = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 16,
    }
    found = {key: values.get(key, default) for key, default in sizes.items()}
    found["num_hidden_layers"] -= 1
    return VisionConfig.parse(found, str(folder / CONFIG_FILE))


def check_options(fields: Mapping[str, Any], source: str) -> None:
    """Raise :class:`CheckpointError` for an option of their config.json that we do not compute."""
    for key in ("ssm_cfg", OURS):
        if not isinstance(fields.get(key, {}), dict):
            raise CheckpointError(f"{source}: {key} must be an object, found {fields[key]!r}")
    ssm = fields.get("ssm_cfg", {})
    options = [(key, fields.get(key), known) for key, known in SUPPORTED.items()]
    options += [(f"ssm_cfg.{key}", ssm.get(key), known) for key, known in SSM_SUPPORTED.items()]
    options += [(key, fields.get(key), tuple(NORMS)) for key in ("value_head_norm", "score_head_norm")]
    if ssm.get("layer") is None:
        options.append(("ssm_cfg.layer", "Mamba1", SSM_SUPPORTED["layer"]))  # what the published backbone falls back on
    for option, found, known in options:
        if found is not None and found not in known:
            values = " or ".join(repr(value) for value in known) or "null"
            raise CheckpointError(f"{source}: {option}={found!r} is not supported, only {values}")


def _settings(fields: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """Our settings, but for the tower's, as far as their config.json and the number of embedding rows tell."""
    ssm = fields["ssm_cfg"]
    scale = fields.get("value_head_scale")
    return {
        "d_model": fields["d_model"],
        "n_layer": fields["n_layer"],
        **{key: ssm.get(key, default) for key, default in SSM_SIZES.items()},
        # The vocabulary is padded to a multiple, so the table has more rows than config.json says.
        "vocab_size": rows,
        "value_head_norm": NORMS[fields.get("value_head_norm") or False],
        "value_head_scale": 1.0 if scale is None or isinstance(scale, bool) else scale,
        "score_head_norm": NORMS[fields.get("score_head_norm") or False],
        "attention_scaling": bool(fields.get("attention_scaling")),
        "use_rank_head": bool(fields.get("use_rank_head")),
        "query_frames": fields.get("query_frames", 32),
        **{
            key: fields.get(key) or SUPPORTED[key][0]
            for key in ("frame_generation_method", "logit_scale_type", "logit_scale_fn")
        },
    }


def _config(
    fields: Mapping[str, Any], weights: Mapping[str, Tensor], vision: VisionConfig, source: str
) -> PolicyConfig:
    settings = _settings(fields, len(weights[TABLE])) | fields.get(OURS, {}) | {"vision": vision.model_dump()}
    return PolicyConfig.parse(settings, source)


def _fields(config: PolicyConfig, rows: int) -> dict[str, Any]:
    """Their config.json for a policy of ours; ``<|startofframe|>`` is a row after those of the vocabulary."""
    fields = {
        "architectures": ["RefocusForFrameSelection"],
        "attention_scaling": config.attention_scaling,
        "attn_cfg": {},
        "attn_layer_idx": [],
        "d_intermediate": 0,
        "d_model": config.d_model,
        "frame_generation_method": config.frame_generation_method,
        "fused_add_norm": True,
        "logit_scale_fn": config.logit_scale_fn,
        "logit_scale_type": config.logit_scale_type,
        "mm_hidden_size": config.vision.hidden_size,
        "mm_patch_merge_type": "flat",
        "mm_projector_type": "mlp2x_gelu",
        "mm_spatial_pool_mode": "bilinear",
        "mm_vision_tower": _tower_name(config),
        "model_type": RELEASED_TYPES[0],
        "n_layer": config.n_layer,
        "pad_vocab_size_multiple": 1,
        "query_frames": config.query_frames,
        "residual_in_fp32": True,
        "rms_norm": True,
        "score_head_norm": NORMS_WRITTEN[config.score_head_norm],
        "ssm_cfg": {"layer": "Mamba2", **{key: getattr(config, key) for key in SSM_SIZES}},
        "tie_embeddings": True,
        "use_rank_head": config.use_rank_head,
        "value_head_norm": NORMS_WRITTEN[config.value_head_norm],
        "value_head_scale": config.value_head_scale,
        "vocab_size": rows,
    }
    if config.frame_generation_method == "autoregressive":
        fields |= {"start_of_frame_token_id": rows, "vocab_size": rows + 1}
    return fields


def _unexpressed(config: PolicyConfig, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Our settings that would be lost on the way back."""
    known = config.vision.model_copy(update={"pixel_mean": 0.5, "pixel_std": 0.5})
    back = PolicyConfig.parse(_settings(fields, len(tensors[TABLE])) | {"vision": known.model_dump()}, OURS)
    ours, theirs = config.model_dump(), back.model_dump()
    lost = {key: value for key, value in ours.items() if theirs[key] != value}
    return {OURS: lost} if lost else {}


def _tower_name(config: PolicyConfig) -> str:
    return next((name for name, vision in TOWERS.items() if vision == config.vision), SAVED_TOWER)


def _tower_place(fields: Mapping[str, Any], folder: Path, vision_tower: str | Path | None) -> str | Path:
    """The tower's folder or hub id: a folder beside the weights goes before one of the same name elsewhere."""
    place: str | Path = fields["mm_vision_tower"] if vision_tower is None else vision_tower
    return folder / place if vision_tower is None and (folder / place).is_dir() else place


def _vision(
    ours: Mapping[str, Any], place: str | Path, weights: Mapping[str, Tensor], tower_inside: bool
) -> VisionConfig:
    """The tower's sizes; they must be those of the weights, as far as those tell."""
    if "vision" in ours:
        return VisionConfig.parse(ours["vision"], f"{CONFIG_FILE}, {OURS}")
    if Path(place).expanduser().is_dir():
        sizes = read_tower_config(Path(place).expanduser())
    elif str(place) in TOWERS:
        sizes = TOWERS[str(place)]
    elif not tower_inside:
        sizes = read_tower_config(tower_folder(place))
    else:
        raise CheckpointError(
            f"vision tower {str(place)!r} is not known by name (only {', '.join(TOWERS)}), and its weights do not tell "
            "the picture size and the attention heads; give vision=VisionConfig(...), or its folder as vision_tower="
        )
    if tower_inside:
        width, _, patch, _ = weights[TOWER + "embeddings.patch_embedding.weight"].shape  # (hidden, 3, patch, patch)
        if (width, patch) != (sizes.hidden_size, sizes.patch_size):
            raise CheckpointError(
                f"vision tower {str(place)!r} has width {sizes.hidden_size} and patches of {sizes.patch_size}, found "
                f"weights of width {width} and patches of {patch}; give its sizes as vision=VisionConfig(...)"
            )
    return sizes


def _sort(weights: Mapping[str, Tensor], layers: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights by our names, and those that have no counterpart by theirs."""
    renamed, unused = {}, {}
    for name, tensor in weights.items():
        if name == OUTPUT or (name.startswith(TOWER) and not runs(name.removeprefix(TOWER), layers)):
            unused[name] = tensor
        else:
            renamed[our_name(name)] = tensor
    return renamed, unused


def _start_row(table: Tensor, row: Any, source: str) -> Tensor:
    if not isinstance(row, int) or not 0 <= row < len(table):
        raise CheckpointError(f"{source}: start_of_frame_token_id={row!r}, but the embedding has {len(table)} rows")
    return table[row].clone()


def our_name(name: str) -> str:
    """The name that we give a weight of theirs."""
    for theirs, ours in RENAMES:
        name = re.sub("^" + re.escape(theirs), ours, name)
    return name


def _their_name(name: str) -> str:
    for theirs, ours in RENAMES:
        name = re.sub("^" + re.escape(ours), theirs, name)
    return name
