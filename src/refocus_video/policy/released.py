"""Reading selector checkpoints in the format of the published ReFoCUS models (METHOD §3).

Only names differ: their weights are mapped onto ours, and their config.json onto :class:`PolicyConfig`. An option that
we do not implement is an error, because ignoring it would give other picks. Two things have no counterpart here and are
left out: the tower's post-layernorm and pooling head, and the output projection of the language model.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from refocus_video.config import PolicyConfig
from refocus_video.errors import CheckpointError

RELEASED_TYPE = "refocus"

TOWERS = {"google/siglip-so400m-patch14-384": {"image_size": 384, "hidden_size": 1152, "num_attention_heads": 16}}
"""What config.json does not tell of a vision tower; the weights do not tell its picture size and heads either."""

TOWER = "mm_model.vision_tower.vision_tower.vision_model."

RENAMES = (
    (re.compile("^" + re.escape(TOWER)), "vision.tower."),
    (re.compile(r"^mm_model\.mm_projector\."), "vision.projector."),
)

UNUSED = re.compile("^" + re.escape(TOWER) + r"(post_layernorm|head)\.|^lm_head\.")

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "frame_generation_method": ("autoregressive",),
    "value_head_norm": (False,),
    "score_head_norm": (False,),
    "value_head_scale": (False,),
    "logit_scale_type": ("scalar",),
    "logit_scale_fn": ("softplus",),
    "use_rank_head": (False,),
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_spatial_pool_mode": ("bilinear",),
    "mm_patch_merge_type": ("flat",),
    "attn_layer_idx": ([],),
    "d_intermediate": (0,),
    "rms_norm": (True,),
}
"""Options and the values that we compute; an option that a config does not state has the first."""


def convert(
    values: Mapping[str, Any], weights: Mapping[str, Tensor], source: str
) -> tuple[PolicyConfig, dict[str, Tensor]]:
    """Our settings and weights from those of a released checkpoint.

    Args:
        values: its config.json.
        weights: its tensors under their released names.
        source: named in errors.

    Raises:
        CheckpointError: when an option is not supported, or a weight that tells a size is missing.
    """
    _check_options(values, source)
    try:
        config = _config(values, weights, source)
        start = weights["backbone.embedding.weight"][int(values["start_of_frame_token_id"])]
    except KeyError as error:
        raise CheckpointError(f"{source}: a released checkpoint needs {error.args[0]!r}, which is missing") from None
    renamed = {_rename(name): tensor for name, tensor in weights.items() if not UNUSED.match(name)}
    return config, {**renamed, "start_of_frame": start.clone()}


def _check_options(values: Mapping[str, Any], source: str) -> None:
    for option, supported in SUPPORTED.items():
        found = values.get(option, supported[0])
        if found is not None and found not in supported:
            known = " or ".join(repr(value) for value in supported)
            raise CheckpointError(f"{source}: {option}={found!r} is not supported yet, only {known}")
    layer = values.get("ssm_cfg", {}).get("layer")
    if layer != "Mamba2":
        raise CheckpointError(f"{source}: ssm_cfg.layer={layer!r} is not supported, only 'Mamba2'")
    if values.get("ssm_cfg", {}).get("ngroups", 1) != 1:
        raise CheckpointError(f"{source}: ssm_cfg.ngroups other than 1 is not supported")


def _config(values: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> PolicyConfig:
    ssm = values["ssm_cfg"]
    settings = {
        "vision": _vision(values, weights, source),
        "pool_stride": values.get("mm_spatial_pool_stride", 2),
        "d_model": values["d_model"],
        "n_layer": values["n_layer"],
        "d_state": ssm.get("d_state", 128),
        "headdim": ssm.get("headdim", 64),
        "expand": ssm.get("expand", 2),
        "d_conv": ssm.get("d_conv", 4),
        # The vocabulary is padded to a multiple, so the table has more rows than config.json says.
        "vocab_size": len(weights["backbone.embedding.weight"]),
        "attention_scaling": bool(values.get("attention_scaling", False)),
    }
    return PolicyConfig.parse(settings, source)


def _vision(values: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> dict[str, int]:
    """The tower's sizes: layers and widths from the weights, since the file holds the layers that are run."""
    name = values["mm_vision_tower"]
    if name not in TOWERS:
        raise CheckpointError(f"{source}: vision tower {name!r} is not supported, only {', '.join(TOWERS)}")
    patches = weights[TOWER + "embeddings.patch_embedding.weight"]  # (hidden, 3, patch, patch)
    if len(patches) != TOWERS[name]["hidden_size"]:
        # With another width the number of attention heads is a guess, and a wrong one loads without complaint.
        raise CheckpointError(
            f"{source}: vision tower {name!r} has width {TOWERS[name]['hidden_size']}, "
            f"found weights of width {len(patches)}; a changed tower is not supported"
        )
    layer = re.compile("^" + re.escape(TOWER) + r"encoder\.layers\.(\d+)\.layer_norm1\.weight$")
    return {
        **TOWERS[name],
        "patch_size": patches.shape[-1],
        "intermediate_size": weights[TOWER + "encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": sum(layer.match(name) is not None for name in weights),
    }


def _rename(name: str) -> str:
    for pattern, ours in RENAMES:
        name = pattern.sub(ours, name)
    return name
