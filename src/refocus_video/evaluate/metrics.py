"""Accuracy and evidence recall of an evaluation, with bootstrap intervals. Pure NumPy.

Questions about one video are not independent: they share its frames. So whole videos are drawn with replacement,
never single questions, and the mean is taken over the questions of the drawn videos.

The interval is the percentile interval. It has no width where every value is the same, and there is none at all
for a single video.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refocus_video.errors import DataError
from refocus_video.types import FloatArray

Row = dict[str, Any]
Table = dict[tuple[str, int], dict[str, Row]]
"""Rows by selector and budget, then by question id."""

BASELINE = "uniform"
ALL = "all"
IN_WORDS = ("exact", "f1", "wups")
"""Measures of answers to questions without options; a question that failed counts 0."""


def bootstrap_interval(
    values: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean of ``values``.

    Args:
        values: one number for each question, (N,).
        clusters: the video of each question, (N,); None treats every question as a video of its own.
        seed: of the draws.
        resamples: number of draws.
        level: share of the draws' means inside the interval.

    Returns:
        Low and high end; both NaN if there are fewer than two clusters.

    Raises:
        DataError: there are no values, or not one cluster for each.
    """
    numbers = np.asarray(values, dtype=np.float64)
    names = range(len(numbers)) if clusters is None else clusters
    if numbers.ndim != 1 or len(numbers) == 0 or len(names) != len(numbers):
        raise DataError(f"an interval needs values and a cluster for each, found {numbers.shape} and {len(names)}")
    sums, counts = _cluster_sums(numbers, names)
    if len(sums) < 2:
        return math.nan, math.nan
    weights = _draws(len(sums), resamples, seed)
    means = (weights @ sums) / (weights @ counts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_sums(
    columns: npt.ArrayLike,
    clusters: Sequence[Hashable],
    statistic: Callable[[FloatArray], FloatArray],
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of anything that is computed from sums over rows, such as a correlation.

    Args:
        columns: what is summed, (N, C).
        clusters: the video of each row, (N,).
        statistic: of sums (R, C), one for each draw: (R,).
        seed: of the draws.
        resamples: number of draws, R.
        level: share of the draws inside the interval.

    Returns:
        Low and high end; both NaN if there are fewer than two clusters, or no draw has a value.
    """
    numbers = np.asarray(columns, dtype=np.float64)
    sums = np.stack([_cluster_sums(column, clusters)[0] for column in numbers.T], axis=1)
    if len(sums) < 2:
        return math.nan, math.nan
    values = statistic(_draws(len(sums), resamples, seed) @ sums)
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of ``a - b`` over the same questions, and its interval. Arguments and errors as :func:`bootstrap_interval`.

    Returns:
        The mean difference, its low and its high end.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise DataError(f"a paired difference needs two values for each question, found {first.shape}, {second.shape}")
    low, high = bootstrap_interval(first - second, clusters, seed=seed, resamples=resamples, level=level)
    return float((first - second).mean()), low, high


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Exact two-sided McNemar test of whether two selectors are right equally often on the same questions.

    Only questions count that one gets right and the other wrong; under the hypothesis each is a fair coin. Questions are taken as
    independent, which those of one video are not: the paired bootstrap over videos is the more careful of the two.

    Args:
        a: whether the first was right, (N,).
        b: whether the second was right on the same questions, (N,).

    Returns:
        The p-value; 1 where they never differ.
    """
    first, second = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    if first.shape != second.shape:
        raise DataError(f"a paired test needs two values for each question, found {first.shape}, {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    ways = tail = 1
    for i in range(fewer):
        ways = ways * (total - i) // (i + 1)
        tail += ways
    # Whole numbers until the end: a float of 2^total overflows at 1,024 questions.
    return min(1.0, 2 * float(Fraction(tail, 2**total)))


def _cluster_sums(values: FloatArray, clusters: Sequence[Hashable]) -> tuple[FloatArray, FloatArray]:
    """Sum and number of the values of each cluster, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    place = np.array([numbers.setdefault(name, len(numbers)) for name in clusters], dtype=np.int64)
    return np.bincount(place, weights=values).astype(np.float64), np.bincount(place).astype(np.float64)


@lru_cache(maxsize=2)  # most cells of a table are about equally many videos
def _draws(count: int, resamples: int, seed: int) -> FloatArray:
    """How often each of ``count`` clusters is drawn in each resample, (resamples, count); rows sum to ``count``."""
    picked = np.random.default_rng(seed).integers(0, count, size=(resamples, count))
    picked += np.arange(resamples)[:, None] * count
    return np.bincount(picked.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def is_correct(row: Row) -> bool:
    """Whether a row counts as right: a row with an error never does."""
    return bool(row["correct"]) and not row.get("error")


def tabulate(rows: Sequence[Row]) -> Table:
    """Rows by selector and budget, then by question.

    Raises:
        DataError: one question has two rows for the same selector and budget.
    """
    table: Table = {}
    for row in rows:
        cell = table.setdefault((row["selector"], row["budget"]), {})
        if row["id"] in cell:
            raise DataError(f"question {row['id']!r} has two rows for {row['selector']!r} with {row['budget']} frames")
        cell[row["id"]] = row
    return table


class Paired(NamedTuple):
    """Two selectors on the same questions."""

    mine: list[bool]
    other: list[bool]
    videos: list[str]


def paired(table: Table, selector: str, baseline: str, budget: int, question_type: str = ALL) -> Paired | None:
    """What two selectors got right of the questions that ``selector`` has; a control leaves out those it does not apply to.

    Returns:
        None if either has no rows.

    Raises:
        DataError: the baseline has not answered a question that the selector has.
    """
    mine, other = table.get((selector, budget), {}), table.get((baseline, budget), {})
    wanted = [row for row in mine.values() if question_type in (ALL, row["question_type"])]
    if not wanted or not other:
        return None
    missing = [row["id"] for row in wanted if row["id"] not in other]
    if missing:
        raise DataError(
            f"{len(missing)} questions have rows for {selector!r} and none for {baseline!r} with {budget} frames, "
            f"such as {missing[0]!r}; run both on the same questions"
        )
    return Paired(
        [is_correct(row) for row in wanted],
        [is_correct(other[row["id"]]) for row in wanted],
        [row["video"] for row in wanted],
    )


def accuracy_gain(table: Table, selector: str, baseline: str, budget: int) -> tuple[float, float, float] | None:
    """Accuracy of one selector minus that of another over the same questions, with its interval; see :func:`paired`.

    Returns:
        The difference, its low and its high end; None if either has no rows.
    """
    both = paired(table, selector, baseline, budget)
    return None if both is None else paired_bootstrap(both.mine, both.other, both.videos)


def question_types(rows: Sequence[Row]) -> list[str]:
    """``all``, then every question type in alphabetical order; questions without a type are in ``all`` only."""
    return [ALL, *sorted({row["question_type"] for row in rows if row["question_type"]})]


def summarise(
    rows: Sequence[Row], seed: int = 0, baseline: str = BASELINE, kinds: Sequence[str] | None = None
) -> list[Row]:
    """One row for each question type, selector and budget: the ``rows`` of ``results.json``.

    ``kinds`` are the question types told; None for ``all`` and every one there is.

    Accuracy is over all rows; a failed one counts as wrong. Recall is over the rows where it is known, and None
    if there are none. The gain and its McNemar p-value are over the baseline, and None for the baseline itself. An end
    of an interval is None where it cannot be estimated.

    Raises:
        DataError: a question has two rows in one cell, or lacks its row of the baseline.
    """
    table = tabulate(rows)
    selectors = list(dict.fromkeys(row["selector"] for row in rows))
    budgets = sorted({row["budget"] for row in rows})
    lines = []
    for kind in question_types(rows) if kinds is None else kinds:
        for selector in selectors:
            for budget in budgets:
                cell = table.get((selector, budget), {}).values()
                group = [row for row in cell if kind in (ALL, row["question_type"])]
                if group:
                    both = None if selector == baseline else paired(table, selector, baseline, budget, kind)
                    lines.append(
                        {"selector": selector, "budget": budget, "question_type": kind} | _line(group, both, seed)
                    )
    return lines


def mean_line(name: str, values: Sequence[float], clusters: Sequence[Hashable] | None = None, *, seed: int = 0) -> Row:
    """The mean of some values, (N,), with the ends of its interval: ``name``, ``name_low`` and ``name_high``.

    All are None without values; the ends are where an interval cannot be estimated.
    """
    if not len(values):
        return with_ends(name, None, (math.nan, math.nan))
    return with_ends(name, float(np.mean(values)), bootstrap_interval(values, clusters, seed=seed))


def _line(group: list[Row], both: Paired | None, seed: int) -> Row:
    videos = [row["video"] for row in group]
    correct = [float(is_correct(row)) for row in group]
    known = [(row["recall"], row["video"]) for row in group if row["recall"] is not None]
    recall = [value for value, _ in known]
    line: Row = {
        "n": len(group),
        "videos": len(set(videos)),
        "failed": sum(bool(row.get("error")) for row in group),
        "unparsable": sum(bool(row.get("unparsable")) for row in group),
    }
    for name in IN_WORDS:
        measured = [row[name] for row in group if row.get(name) is not None]
        line[name] = float(np.mean(measured)) if measured else None
    line |= with_ends("accuracy", float(np.mean(correct)), bootstrap_interval(correct, videos, seed=seed))
    if known:
        ends = bootstrap_interval(recall, [video for _, video in known], seed=seed)
        line |= with_ends("recall", float(np.mean(recall)), ends)
    else:
        line |= with_ends("recall", None, (math.nan, math.nan))
    if both is None:
        return line | with_ends("accuracy_gain", None, (math.nan, math.nan)) | {"p_value": None}
    gain, low, high = paired_bootstrap(both.mine, both.other, both.videos, seed=seed)
    return line | with_ends("accuracy_gain", gain, (low, high)) | {"p_value": mcnemar(both.mine, both.other)}


def with_ends(name: str, value: float | None, ends: tuple[float, float]) -> Row:
    """A number and the ends of its interval as fields of a row; an end that cannot be estimated is None."""
    low, high = (None if math.isnan(end) else end for end in ends)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
