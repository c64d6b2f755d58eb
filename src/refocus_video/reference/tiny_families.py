"""Tiny models of every family, with random weights: the architectures of the real ones at a fraction of a million parameters.

For tests and benchmarks; they are built from the same transformers classes and run by the same adapter as the full-size models.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

SPECIAL = (
    *("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<image>", "<video>"),
    *("<img>", "</img>", "<IMG_CONTEXT>", "<fake_token_around_image>", "<global-img>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a tiny model is. A visual token is 2×2 patches."""

    image_size: int = 32
    patch_size: int = 8
    vision_width: int = 32
    vision_layers: int = 2
    width: int = 32
    layers: int = 3
    heads: int = 2
    context: int = 4096


def family_tokenizer(words: Iterable[str]) -> Any:
    """A tokenizer with one token a word, punctuation mark or digit, and the special tokens of all families."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = dict.fromkeys([*SPECIAL, *"0123456789", *words])
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|\d|[^\w\s]"), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[2:]),
    )


def tiny_model(kind: str, tokenizer: Any, shape: Shape = Shape()) -> Any:
    """A randomly initialised model of the family called ``kind`` (a key of ``FAMILIES``)."""
    import transformers

    config = _CONFIGS[kind](transformers, tokenizer.convert_tokens_to_ids, _text(tokenizer, shape), shape)
    names = {
        "llava_onevision": "LlavaOnevision",
        "internvl": "InternVL",
        "qwen2_5_vl": "Qwen2_5_VL",
        "qwen3_vl": "Qwen3VL",
        "video_llama_3": "VideoLlama3",
        "smolvlm": "SmolVLM",
    }
    return getattr(transformers, f"{names[kind]}ForConditionalGeneration")(config)


def _text(tokenizer: Any, shape: Shape) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "intermediate_size": 2 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": max(1, shape.heads // 2),
        "max_position_embeddings": shape.context,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _vision(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.vision_width,
        "intermediate_size": 4 * shape.vision_width,
        "num_hidden_layers": shape.vision_layers,
        "num_attention_heads": shape.heads,
        "patch_size": shape.patch_size,
    }


def _llava_onevision(transformers: Any, token: Any, text: dict[str, Any], shape: Shape) -> Any:
    vision = _vision(shape) | {"image_size": shape.image_size, "vision_use_head": False}
    return transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**vision),
        text_config=transformers.Qwen2Config(**text),
        video_token_index=token("<video>"),
        image_token_index=token("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def _internvl(transformers: Any, token: Any, text: dict[str, Any], shape: Shape) -> Any:
    vision = _vision(shape) | {"image_size": [shape.image_size] * 2, "patch_size": [shape.patch_size] * 2}
    return transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**vision),
        text_config=transformers.Qwen2Config(**text),
        image_token_id=token("<IMG_CONTEXT>"),
        image_seq_length=(shape.image_size // shape.patch_size // 2) ** 2,
    )


def _qwen_ids(token: Any) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {key: token(name) for key, name in names.items()}


def _mrope(shape: Shape) -> list[int]:
    """How the halves of a head's width are divided between time, row and column."""
    half = shape.width // shape.heads // 2
    return [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]


def _qwen2_5_vl(transformers: Any, token: Any, text: dict[str, Any], shape: Shape) -> Any:
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "intermediate_size": 4 * shape.vision_width,
        "num_heads": shape.heads,
        "patch_size": shape.patch_size,
        "out_hidden_size": shape.width,
        "window_size": 4 * shape.patch_size,
        "fullatt_block_indexes": [shape.vision_layers - 1],
        "tokens_per_second": 2,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _mrope(shape)}
    return transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config=text | {"rope_parameters": rope}, **_qwen_ids(token)
    )


def _qwen3_vl(transformers: Any, token: Any, text: dict[str, Any], shape: Shape) -> Any:
    vision = {
        "depth": shape.vision_layers,
        "hidden_size": shape.vision_width,
        "intermediate_size": 4 * shape.vision_width,
        "num_heads": shape.heads,
        "patch_size": shape.patch_size,
        "out_hidden_size": shape.width,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": list(range(min(2, shape.vision_layers))),
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _mrope(shape)}
    head = {"head_dim": shape.width // shape.heads}
    return transformers.Qwen3VLConfig(
        vision_config=vision, text_config=text | head | {"rope_parameters": rope}, **_qwen_ids(token)
    )


def _video_llama_3(transformers: Any, token: Any, text: dict[str, Any], shape: Shape) -> Any:
    return transformers.VideoLlama3Config(
        vision_config=_vision(shape),
        text_config=transformers.Qwen2Config(**text),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
    )


def _smolvlm(transformers: Any, token: Any, text: dict[str, Any], shape: Shape) -> Any:
    return transformers.SmolVLMConfig(
        vision_config=_vision(shape) | {"image_size": shape.image_size},
        text_config=transformers.LlamaConfig(**text),
        image_token_id=token("<image>"),
        scale_factor=2,
        pad_token_id=text["pad_token_id"],
    )


_CONFIGS = {
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "video_llama_3": _video_llama_3,
    "smolvlm": _smolvlm,
}
