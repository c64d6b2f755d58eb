"""What a server's reply says about the options. Pure."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from refocus_video.reference.letters import letter

_SPACE = " \t\r\n▁Ġ"
"""What tokenizers put before a word's token, apart from a plain space."""

_IMPOSSIBLE = -9999.0
"""The protocol's word for minus infinity."""


class MalformedReplyError(ValueError):
    """A reply that does not follow the protocol; never leaves this room."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The part of a reply that is used, and kept in the cache."""

    top: tuple[tuple[str, float], ...]
    """The likeliest first tokens and their log-probabilities; empty where the server gives none."""
    prompt_tokens: int
    completion_tokens: int
    text: str = ""
    """What was written."""

    @classmethod
    def parse(cls, document: Any) -> Self:
        """Read a chat completion.

        Raises:
            MalformedReplyError: if it is none.
        """
        try:
            choice = document["choices"][0]
            usage = document.get("usage") or {}
            content = (choice.get("logprobs") or {}).get("content") or [{}]
            return cls.of(
                content[0].get("top_logprobs") or [],
                usage.get("prompt_tokens"),
                usage.get("completion_tokens"),
                (choice.get("message") or {}).get("content") or "",
            )
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError):
            raise MalformedReplyError("not a chat completion") from None

    @classmethod
    def of(cls, top: list[dict[str, Any]], prompt_tokens: Any, completion_tokens: Any, text: Any) -> Self:
        """Check the fields of a reply, from a server or from the cache."""
        pairs = tuple((str(entry["token"]), max(float(entry["logprob"]), _IMPOSSIBLE)) for entry in top)
        if not all(math.isfinite(log_prob) for _, log_prob in pairs):
            raise ValueError("a log-probability is not a number")
        return cls(pairs, int(prompt_tokens or 0), int(completion_tokens or 0), str(text))

    def to_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads."""
        return asdict(self) | {"top": [{"token": token, "logprob": log_prob} for token, log_prob in self.top]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """The reply that was written by :meth:`to_json`."""
        return cls.of(row["top"], row["prompt_tokens"], row["completion_tokens"], row["text"])


def option_log_probs(top: tuple[tuple[str, float], ...], num_options: int) -> tuple[list[float], int]:
    """Log-probability of every option's letter, and how many letters were not among the likeliest tokens.

    Tokens that differ only by spaces around the letter count together. A missing letter is at most as likely as the least likely
    token that was returned, and gets that bound.
    """
    floor = min(log_prob for _, log_prob in top)
    found = [[p for token, p in top if token.strip(_SPACE) == letter(i)] for i in range(num_options)]
    return [_log_sum_exp(hits) if hits else floor for hits in found], sum(not hits for hits in found)


def _log_sum_exp(values: list[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))
