"""Puts the parts of a run together from its configuration: reference model, policy, features."""

from pathlib import Path
from typing import Any

import torch

from refocus_video.assets import locate
from refocus_video.config import ReferenceConfig, RunConfig
from refocus_video.errors import CheckpointError
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.tower import load_tower
from refocus_video.reference.huggingface import HuggingFaceReference


def load_reference(config: ReferenceConfig, device: str = "cpu") -> HuggingFaceReference:
    """The frozen LMM of a configuration."""
    source = locate(config.model, "reference")
    return HuggingFaceReference.from_pretrained(source, answer_mode=config.answer_mode, device=device)


def new_policy(config: RunConfig) -> FramePolicy:
    """The policy that a run starts from: a new one over a pretrained frozen tower, or an earlier one.

    The random weights depend on ``train.seed`` alone.
    """
    if config.start.policy is not None:
        return FramePolicy.from_pretrained(locate(config.start.policy, "policy"))
    torch.manual_seed(config.train.seed)
    policy = FramePolicy(config.policy, load_tokenizer(locate(config.start.tokenizer, "reference")))
    load_tower(policy.vision, locate(config.start.tower, "reference"))
    return policy


def load_tokenizer(source: str) -> Any:
    """A tokenizer from a folder or the hub."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        if (Path(source) / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(source)
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"cannot load the tokenizer {source!r}: {reason}") from None
