"""Options by letter: how a question lists them, and which one a written answer names. Pure."""

import re
import unicodedata

from refocus_video.errors import QuestionError
from refocus_video.types import Question

INSTRUCTION = "Answer with the option's letter from the given choices directly."

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|$)|^.*</think>", re.DOTALL | re.IGNORECASE)
"""What a model thinks aloud: also where only the beginning or only the end of it is marked."""
_MARKED = re.compile(r"<answer>(.*?)</answer>|\\boxed\{(?:\\text\{)?([^{}]*)\}+", re.DOTALL | re.IGNORECASE)
"""``<answer>B</answer>``, ``\boxed{B}``: what is inside is the answer."""
_ALONE = re.compile(r"[\W_]*([A-Za-z])[\W_]*")
"""A letter and nothing else but punctuation: ``B``, ``(b)``, ``**B.**``."""
_LEADING = re.compile(r"[*_(\[\s]*(?:([A-Z])[*_]*[.):\]]|([a-z])[*_]*[.):\]](?=[*_]*\s))")
"""A letter that opens the answer as it opens an option: ``B. the red card``."""
_QUOTES = r"[\s*_(\[\"'`“]*"
_ONE = r"([A-Z]|[a-z](?=[\s*_)\]\"'`”.]*(?:[.\n]|$)))(?![A-Za-z'’])"
"""An option's letter in a sentence; a small one only where the sentence ends: ``the answer is a card`` names none."""
_ANOTHER = (
    rf"(?:{_QUOTES}[\])\"'`”*_]*\s*(?:(?i:or|and)\b|[/&,])\s*(?:(?i:option|choice)\s+)?[(\[*]*([A-Z])(?![A-Za-z'’]))?"
)
"""``A or B`` names two, and so none."""
_IS = r"(?:\s+(?i:is|was|would\s+be|should\s+be|must\s+be))?\s*[:=]?"
_ANSWER = re.compile(
    rf"(?:\b(?i:answer|choice){_IS}(?:{_QUOTES}(?i:option|choice))?|答案(?:是|为|:)*|选(?:择|项)?){_QUOTES}{_ONE}{_ANOTHER}"
)
"""``the answer is B``, ``Answer: b``."""
_OPTION = re.compile(rf"\b(?i:option){_IS}{_QUOTES}{_ONE}{_ANOTHER}")
"""``Option B``: says less than an answer does, since wrong options are spoken of too."""
_LAST = re.compile(r"[,:]\s+[*_(\[\"'`]*([A-Z])[\W_]*$")
"""``Based on the video, B.``"""
_LONE = re.compile(r"(?<![A-Za-z'’])([A-Z])(?![A-Za-z'’])")


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

    Strict: an answer that must be guessed at counts as no answer. What a model thinks aloud is left out; what it marks as its
    answer counts alone; full-width letters count as plain ones.
    """
    answer = _THOUGHTS.sub("", unicodedata.normalize("NFKC", text)).strip()
    marked = [inside or boxed for inside, boxed in _MARKED.findall(answer)]
    named = set().union(*map(_named, marked)) if marked else _named(answer)
    if len(named) != 1:
        return None
    position = ord(named.pop()) - ord("A")
    return position if position < num_options else None


def _named(answer: str) -> set[str]:
    """The letters that an answer names, by the plainest way in which it names any."""
    alone = {found[1].upper() for line in answer.splitlines() if (found := _ALONE.fullmatch(line))}
    first = _LEADING.match(answer)
    opened = {(first[1] or first[2]).upper()} if first else set()
    said = _letters(_ANSWER.findall(answer))
    if alone | opened | said:
        return alone | opened | said
    said = _letters(_OPTION.findall(answer))
    last = _LAST.search(answer)
    return said or ({last[1]} if last and _LONE.findall(answer) == [last[1]] else set())


def _letters(found: list[tuple[str, str]]) -> set[str]:
    return {one.upper() for pair in found for one in pair if one}
