"""New policies: a pretrained tower, a pretrained or random backbone, and heads that know nothing yet (METHOD §3).

A backbone is read from a checkpoint in the format of the mamba-ssm package (``state-spaces/mamba2-…``), in that of transformers
(``Mamba2ForCausalLM``), or from a Video-Ma²mba, whose projector is taken over as well.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refocus_video.config import PolicyConfig
from refocus_video.errors import CheckpointError
from refocus_video.hub import CONFIG_FILE, local_folder
from refocus_video.policy.files import load_weights, read_json, read_weights
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.prompt import Tokenizer
from refocus_video.policy.released import SSM_SIZES, TABLE, check_options, our_name
from refocus_video.policy.tower import load_tower

PROJECTOR = "vision.projector."

TRANSFORMERS_SIZES = {
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "d_state": "state_size",
    "headdim": "head_dim",
    "expand": "expand",
    "d_conv": "conv_kernel",
}
"""Our names of sizes, and those of ``transformers.Mamba2Config``."""

TRANSFORMERS_SUPPORTED: dict[str, Any] = {
    "n_groups": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "hidden_act": "silu",
    "rms_norm": True,
    "layer_norm_epsilon": 1e-5,
    "time_step_limit": (0.0, float("inf")),
}
"""Options there, with the one value that we compute."""


class BareBackbone(NamedTuple):
    """A pretrained backbone as it lies in a folder."""

    sizes: dict[str, int]
    """Settings of :class:`PolicyConfig` that it decides."""
    weights: dict[str, Tensor]
    """By our names; those of a projector among them, if there is one."""
    unused: tuple[str, ...]
    """Names of weights that a policy has no place for, such as the output projection."""
    source: str
    """Where it was found."""


@torch.no_grad()
def fresh_policy(
    config: PolicyConfig,
    tokenizer: Tokenizer,
    *,
    tower: str | Path,
    backbone: BareBackbone | None = None,
    seed: int = 0,
) -> FramePolicy:
    """A policy before any training; what is random in it depends on the seed alone.

    Args:
        config: its settings.
        tokenizer: of the backbone.
        tower: folder or hub id of a model that holds a SigLIP tower.
        backbone: from :func:`read_backbone`; None for a random one.
        seed: of the random weights.

    Raises:
        CheckpointError: if the tower or the backbone is not there, or of another size.
    """
    torch.manual_seed(seed)
    policy = FramePolicy(config, tokenizer)
    policy.prefix_ids()  # a tokenizer of another vocabulary is told now, not when the first video is read
    load_tower(policy.vision, tower)
    if backbone is not None:
        _load_backbone(policy, backbone)
        policy.restart()
    return policy


def read_backbone(name: str | Path) -> BareBackbone:
    """A pretrained backbone from a folder or the hub.

    Raises:
        CheckpointError: if there is none, or one with options that we do not compute.
    """
    folder = local_folder(name, "backbone")
    fields = read_json(folder / CONFIG_FILE)
    if "d_model" in fields:
        check_options(fields, str(folder / CONFIG_FILE))
        ssm = fields.get("ssm_cfg", {})
        sizes = {"d_model": fields["d_model"], "n_layer": fields.get("n_layer")}
        sizes |= {key: ssm.get(key, default) for key, default in SSM_SIZES.items()}
    elif fields.get("model_type") == "mamba2":
        sizes = _transformers_sizes(folder)
    else:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: no Mamba-2 backbone (model_type {fields.get('model_type')!r}); "
            "give a checkpoint of mamba-ssm, of transformers' Mamba2, or a Video-Ma²mba"
        )
    found = {_our_name(name): tensor for name, tensor in read_weights(folder).items()}
    if TABLE not in found:
        raise CheckpointError(f"{folder} holds no {TABLE}; give the folder of a whole backbone")
    sizes["vocab_size"] = len(found[TABLE])
    weights = {name: part for name, part in found.items() if name.startswith(("backbone.", PROJECTOR))}
    return BareBackbone(sizes, weights, tuple(sorted(found.keys() - weights.keys())), str(name))


def _transformers_sizes(folder: Path) -> dict[str, int]:
    from transformers import Mamba2Config

    config = Mamba2Config.from_pretrained(folder)  # knows what holds where the file says nothing
    found = {key: getattr(config, key, only) for key, only in TRANSFORMERS_SUPPORTED.items()}
    found["time_step_limit"] = tuple(config.time_step_limit)
    for key, only in TRANSFORMERS_SUPPORTED.items():
        if found[key] != only:
            raise CheckpointError(f"{folder / CONFIG_FILE}: {key}={found[key]!r} is not supported, only {only!r}")
    return {ours: getattr(config, theirs) for ours, theirs in TRANSFORMERS_SIZES.items()}


def _our_name(name: str) -> str:
    return our_name(name).replace("backbone.embeddings.", "backbone.embedding.")


def _load_backbone(policy: FramePolicy, found: BareBackbone) -> None:
    asked = policy.config.model_dump()
    different = [f"{key} {size} instead of {asked[key]}" for key, size in found.sizes.items() if asked[key] != size]
    if different:
        raise CheckpointError(
            f"the backbone {found.source} has {', '.join(different)}; choose the preset or the settings that fit it"
        )
    weights = {name: part.float() for name, part in found.weights.items()}
    own = {name.removeprefix("backbone."): part for name, part in weights.items() if not name.startswith(PROJECTOR)}
    load_weights(policy.backbone, own, found.source)
    projector = {name.removeprefix(PROJECTOR): part for name, part in weights.items() if name.startswith(PROJECTOR)}
    if projector:
        load_weights(policy.vision.projector, projector, f"{found.source}, projector")
