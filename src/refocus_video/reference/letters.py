"""Options by letter: how a question lists them, and which one a written answer names. Pure."""

import re

from refocus_video.errors import QuestionError
from refocus_video.types import Question

INSTRUCTION = "Answer with the option's letter from the given choices directly."

_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
"""A letter and nothing else but punctuation: ``B``, ``(b)``, ``**B.**``."""
_LEADING = re.compile(r"[*_(\[\s]*([A-Z])[*_]*[.):\]]")
"""A letter that opens the answer as it opens an option: ``B. the red card``."""
_STATED = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?\s*:?[\s*_(\[\"'`]*([A-Z])\b(?!['’])", re.IGNORECASE)
"""``the answer is B``, ``Option B``."""


def letter(position: int) -> str:
    """The letter of an option."""
    return chr(ord("A") + position)


def check_lettered(question: Question) -> None:
    """Raise :class:`ReferenceModelError` if a question has no options, or more than there are letters."""
    if not 2 <= len(question.options) <= 26:
        raise QuestionError(
            f"options are lettered A to Z, at least 2 of them; question {question.text!r} has {len(question.options)}"
        )


def lettered(question: Question) -> str:
    """The question with its options, as it is put to a model that answers by letter."""
    lines = [f"{letter(i)}. {option}" for i, option in enumerate(question.options)]
    return "\n".join([question.text, *lines, INSTRUCTION])


def rotated(question: Question, by: int) -> Question:
    """The same question with its options ``by`` places further on: option ``by`` comes first."""
    return Question(question.text, (*question.options[by:], *question.options[:by]))


def parse_letter(text: str, num_options: int) -> int | None:
    """Position of the option that a written answer names; None if it names none, or more than one.

    Strict: an answer that must be guessed at counts as no answer. What a model writes between ``<think>`` and ``</think>`` is
    left out.
    """
    answer = _THOUGHTS.sub("", text).strip()
    alone = _ALONE.fullmatch(answer)
    if alone:
        named = {alone[1].upper()}
    else:
        leading = _LEADING.match(answer)
        stated = [found for found in _STATED.findall(answer) if found.isupper()]
        named = {*stated, *([leading[1]] if leading else [])}
    if len(named) != 1:
        return None
    position = ord(named.pop()) - ord("A")
    return position if position < num_options else None
