"""A small LLaVA-OneVision: the architecture of the real one at about half a million parameters, with a tokenizer for it.

It is built from the same transformers classes and loaded by the same adapter as the full-size model. How it is trained is in
``refocus_video.train.tiny_reference``.
"""

import re
from collections.abc import Iterable
from typing import Any

from refocus_video.reference.families import FAMILIES

SPECIAL = ("<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<video>", "<image>")
IMAGE_SIZE, PATCH_SIZE = 32, 8


def words_of(texts: Iterable[str]) -> list[str]:
    """Every word and punctuation mark of some texts, in lower case, sorted."""
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})


def tiny_tokenizer(words: Iterable[str]) -> Any:
    """A tokenizer with one token a word; words it does not know become ``<unk>``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = [*SPECIAL, *dict.fromkeys(word for word in words if word not in SPECIAL)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<video>", "<image>"],
    )


def tiny_llava_onevision(tokenizer: Any, *, width: int = 96, layers: int = 4) -> Any:
    """A randomly initialised LLaVA-OneVision whose pictures are 32×32 and whose frames are 4 tokens."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=256,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            initializer_range=0.06,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        ),
        video_token_index=tokenizer.convert_tokens_to_ids(FAMILIES["llava_onevision"].placeholder),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    return LlavaOnevisionForConditionalGeneration(config)
