"""The text around the frames in the policy's prompt (METHOD §3): prefix, frames, then newline, question and suffix.

The frames come before the question, so everything about a video is computed before a question is known.
"""

from pathlib import Path
from typing import Any, Protocol

from refocus_video.errors import CheckpointError, DataError
from refocus_video.types import Question


class Tokenizer(Protocol):
    """What the policy needs of a tokenizer; every tokenizer of transformers has it."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text."""
        ...

    def save_pretrained(self, save_directory: str | Path) -> Any:
        """Write the tokenizer's files to a folder."""
        ...


def question_text(question: Question, suffix: str, with_options: bool) -> str:
    """What follows the frames: the question, its options as lettered lines when wanted, and the suffix."""
    lines = [question.text]
    if with_options:
        if len(question.options) > 26:
            raise DataError(f"options are lettered A to Z; found {len(question.options)} of them")
        lines += [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(question.options)]
    return "\n" + "\n".join(lines) + suffix


def token_ids(tokenizer: Tokenizer, text: str, vocab_size: int) -> list[int]:
    """Token ids of a text, all below ``vocab_size``; a tokenizer that gives others belongs to another model."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    if max(ids, default=0) >= vocab_size:
        raise CheckpointError(
            f"the tokenizer gives token {max(ids)}, but vocab_size is {vocab_size}; "
            "use the tokenizer that the policy was trained with"
        )
    return ids
