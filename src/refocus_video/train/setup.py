"""Puts the parts of a run together from its configuration: reference model, policy, features."""

from pathlib import Path
from typing import Any

import torch

from refocus_video.assets import locate
from refocus_video.config import ModelConfig, PolicyConfig, ReferenceConfig, RunConfig
from refocus_video.errors import CheckpointError, one_line
from refocus_video.hub import TEXT_FILES, local_folder
from refocus_video.policy.fresh import fresh_policy, read_backbone
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.released import read_tower_config
from refocus_video.policy.tower import tower_folder
from refocus_video.reference.base import ReferenceModel
from refocus_video.reference.endpoint.model import EndpointReference
from refocus_video.reference.ensemble import EnsembleReference
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.reference.rewards import load_reward


def load_reference(config: ReferenceConfig, device: str = "cpu") -> ReferenceModel:
    """The frozen LMM of a configuration, or several of them as one.

    Raises:
        ConfigError: also for a reward that does not exist: before anything large is loaded.
    """
    for name in (config.reward, config.open_reward):
        load_reward(name)
    members = [load_model(member, device) for member in (config, *config.ensemble)]
    return EnsembleReference(members) if config.ensemble else members[0]


def load_model(config: ModelConfig, device: str = "cpu") -> ReferenceModel:
    """One frozen LMM: loaded here, or behind its endpoint."""
    if config.endpoint is not None:
        return EndpointReference(config.model, config.endpoint)
    source = locate(config.model, "reference")
    return HuggingFaceReference.from_pretrained(
        source,
        answer_mode=config.answer_mode,
        device=device,
        dtype=config.dtype,
        attention=config.attention,
        revision=config.revision,
        frame_pixels=config.frame_pixels,
    )


def usage_of(reference: ReferenceModel) -> list[dict[str, Any]]:
    """What this process has asked of servers so far, one row an endpoint: requests, tokens, cost."""
    members = reference.members if isinstance(reference, EnsembleReference) else (reference,)
    return [member.usage for member in members if isinstance(member, EndpointReference)]


def new_policy(config: RunConfig) -> FramePolicy:
    """The policy that a run starts from: a new one over a pretrained frozen tower, or an earlier one.

    The random weights depend on ``train.seed`` alone. An earlier policy has its own settings, whatever ``policy`` says:
    :func:`with_policy` gives the configuration that tells so.
    """
    policy = _start_policy(config)
    policy.backbone.compute = config.compute
    return policy


def _start_policy(config: RunConfig) -> FramePolicy:
    start = config.start
    if start.policy is not None:
        policy = FramePolicy.from_pretrained(locate(start.policy, "policy"))
        if start.new_heads:
            torch.manual_seed(config.train.seed)
            policy.restart()
        return policy
    return fresh_policy(
        config.policy,
        load_tokenizer(locate(start.tokenizer, "reference")),
        tower=locate(start.tower, "reference"),
        backbone=None if start.backbone is None else read_backbone(start.backbone),
        seed=config.train.seed,
    )


def with_policy(config: RunConfig, policy: FramePolicy) -> RunConfig:
    """The configuration with the settings that the policy really has: what is saved beside results."""
    return config.model_copy(update={"policy": policy.config})


def fitted(preset: PolicyConfig, tower: str) -> dict[str, Any]:
    """Settings that put a preset on another tower: its sizes, and the pooling that gives no more tokens than the preset has.

    Raises:
        CheckpointError: if ``tower`` is no SigLIP tower.
    """
    vision = read_tower_config(tower_folder(tower))
    side = vision.image_size // vision.patch_size
    return {"vision": vision.model_dump(), "pool_stride": -(-side // preset.pooled_side)}


def load_tokenizer(source: str) -> Any:
    """A tokenizer from a folder or the hub.

    Raises:
        CheckpointError: if there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = local_folder(source, "tokenizer", TEXT_FILES)
    try:
        if (folder / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise CheckpointError(f"cannot load the tokenizer {str(Path(source))!r}: {one_line(error)}") from None
