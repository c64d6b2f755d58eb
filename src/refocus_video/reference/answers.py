"""Answers as tokens: which beginnings of answers need a row of their own, and scores from the log-probabilities found. Pure.

Dimensions: U subsets · O answers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Tokens = Sequence[int]


def starts(answers: Sequence[Tokens]) -> list[tuple[int, ...]]:
    """Every proper beginning of an answer that no other continues: each needs a row, and the others are read on the way."""
    every = sorted({tuple(answer[:i]) for answer in answers for i in range(len(answer))})
    # In this order, what continues a beginning stands right after it.
    return [one for i, one in enumerate(every) if i + 1 == len(every) or every[i + 1][: len(one)] != one]


def mean_log_probs(table: Tensor, answers: Sequence[Tokens], columns: Sequence[Tokens]) -> Tensor:
    """Mean log-probability of each answer's tokens.

    Args:
        table: (U, starts, places, columns), starts in the order of :func:`starts`, the last place after the whole start.
        answers: tokens of each answer.
        columns: the same as columns of the table.

    Returns:
        (U, O).
    """
    begun, last = starts(answers), table.shape[2] - 1
    scores = []
    for answer, named in zip(answers, columns, strict=True):
        parts = []
        for i, column in enumerate(named):
            before = tuple(answer[:i])
            row = next(r for r, start in enumerate(begun) if start[:i] == before)
            parts.append(table[:, row, last - (len(begun[row]) - i), column])
        scores.append(torch.stack(parts).mean(0))
    return torch.stack(scores, dim=-1)
