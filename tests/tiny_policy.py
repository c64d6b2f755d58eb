"""A tiny random policy, its word tokenizer and its inputs, shared by the tests of policy/."""

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from refocus_video.config import PolicyConfig, VisionConfig
from refocus_video.policy.policy import FramePolicy
from refocus_video.types import Question

WORDS = [
    "[UNK]",
    "<sys>",
    "<end>",
    "what",
    "which",
    "colour",
    "card",
    "is",
    "shown",
    "the",
    "at",
    "start",
    "end",
    "red",
    "blue",
    "green",
    "A",
    "B",
    "C",
    ".",
]

QUESTIONS = [
    Question("what colour is the card shown at the finish"),
    Question("which card is red", ("A red card", "the blue card", "green")),
    Question("what is shown"),
    Question("is the card blue at the start", ("red", "blue")),
]


def tiny_tokenizer() -> Any:
    """Words to ids, anything else to [UNK]."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")


def tiny_config(**changes: Any) -> PolicyConfig:
    """Four tokens per frame, two layers."""
    vision = VisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    values: dict[str, Any] = {
        "vision": vision,
        "d_model": 16,
        "n_layer": 2,
        "d_state": 8,
        "headdim": 8,
        "chunk_size": 5,
        "vocab_size": len(WORDS),
        "prompt_prefix": "<sys> the card <end>",
        "prompt_suffix": " <end>",
    }
    return PolicyConfig.model_validate(values | changes)


def tiny_policy(dtype: torch.dtype = torch.float32, **changes: Any) -> FramePolicy:
    """The same random weights at every call; heads large enough that picks are far from uniform."""
    torch.manual_seed(0)
    policy = FramePolicy(tiny_config(**changes), tiny_tokenizer()).to(dtype)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if name in {"key_head.weight", "query_head.weight", "value_head.weight"}:
                weight.mul_(8)
            if name in {"start_of_frame", "value_embedding"}:
                weight.normal_()
    return policy


def tiny_features(policy: FramePolicy, videos: int = 2, frames: int = 9, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random features, (videos, frames, P, C)."""
    config = policy.config
    channels = config.vision.hidden_size * config.merge**2
    generator = torch.Generator().manual_seed(1)
    shape = (videos, frames, config.tokens_per_frame, channels)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
