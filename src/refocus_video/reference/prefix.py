"""Which rows run together, and how many leading tokens they compute once. Pure.

Rows are sequences of names: a token's id, or a name of the visual token that stands there. Rows that begin alike give alike keys
and values there, so a group of them computes its common beginning once.

Dimensions: N rows · L tokens of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from refocus_video.types import IntArray

SHORT = 256
"""Rows up to this length run with those of their own length and share nothing: a second call costs more than it saves."""
CALL_TOKENS = 128
"""What a further call to the model costs, in tokens."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one call."""

    rows: tuple[int, ...]
    shared: int
    """Leading tokens that all of them have in common and that are computed once."""


def plan(rows: Sequence[IntArray | Sequence[int]], *, most_rows: int, most_tokens: int, own: int = 1) -> list[Group]:
    """Divide rows into groups that run together.

    Args:
        rows: names of the tokens of each row, (L,) each; of short ones only the length is looked at.
        most_rows: rows of a group at most.
        most_tokens: tokens that the rows of a group compute each for itself at most, with padding; a single row may have more.
        own: tokens at the end that every row computes for itself, because their logits are wanted.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    groups: list[Group] = []
    short = [i for i in order if len(rows[i]) <= SHORT]
    while short:
        length = len(rows[short[0]])
        most = max(1, min(most_rows, most_tokens // max(1, length)))
        group = [i for i in short[:most] if len(rows[i]) == length]
        groups.append(Group(tuple(group), 0))
        short = short[len(group) :]
    long = [i for i in order if len(rows[i]) > SHORT]
    named = {i: np.asarray(rows[i]) for i in long}
    return groups + _plan_long(named, long, most_rows, most_tokens, own)


def _plan_long(
    rows: Mapping[int, IntArray], which: Sequence[int], most_rows: int, most_tokens: int, own: int
) -> list[Group]:
    """The cheapest division of rows in alphabetical order into runs, by the tokens that are computed."""
    order = sorted(which, key=lambda i: rows[i].astype(">i8").tobytes())
    alike = [common_prefix(rows[a], rows[b]) for a, b in pairwise(order)]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # tokens so far, start of the last run, what it shares
    for end in range(1, len(order) + 1):
        choices = []
        shared = longest = shortest = len(rows[order[end - 1]])
        for start in range(end - 1, max(-1, end - 1 - most_rows), -1):
            longest = max(longest, len(rows[order[start]]))
            shortest = min(shortest, len(rows[order[start]]))
            count = end - start
            shared = min(shared, alike[start]) if count > 1 else shared
            once = max(0, min(shared, shortest - own)) if count > 1 else 0
            apart, together = count * longest, count * (longest - once)
            if count == 1 or apart <= most_tokens:
                choices.append((best[start][0] + apart + CALL_TOKENS, start, 0))
            if once and together <= most_tokens:
                choices.append((best[start][0] + once + together + 2 * CALL_TOKENS, start, once))
        best.append(min(choices))
    groups, end = [], len(order)
    while end:
        _, start, shared = best[end]
        groups.append(Group(tuple(order[start:end]), shared))
        end = start
    return groups[::-1]


def common_prefix(one: IntArray, other: IntArray) -> int:
    """Number of leading entries in which two sequences agree."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length
