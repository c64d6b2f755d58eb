"""The selectors beside slow, literal transcriptions of their formulas, and of the invariants that each of them promises."""

import itertools
import math

import numpy as np
import pytest

from refocus_video.selectors.adaq import adaq
from refocus_video.selectors.aks import aks, leaves
from refocus_video.selectors.bolt import bolt
from refocus_video.selectors.gumbel import gumbel_top_k
from refocus_video.selectors.kfc import kfc
from refocus_video.selectors.maxinfo import directions, max_volume, square_maxvol
from refocus_video.selectors.mdp3 import mdp3
from refocus_video.selectors.mmr import mmr
from refocus_video.selectors.ranking import apportioned
from refocus_video.selectors.scored import Features
from refocus_video.selectors.slice import slice_mass
from refocus_video.selectors.uniform import uniform_u3
from refocus_video.types import FloatArray
from scorers import SHAPES, shots, unit


def _scores(seed: int, count: int) -> list[float]:
    """Noise with a hill somewhere."""
    rng = np.random.default_rng(seed)
    hill = np.exp(-0.5 * ((np.arange(count) - rng.uniform(0, count)) / rng.uniform(1, count / 4)) ** 2)
    return [float(score) for score in 0.2 + 0.03 * rng.normal(size=count) + rng.uniform(0, 0.2) * hill]


def _stretched(scores: list[float]) -> list[float]:
    return [(score - min(scores)) / (max(scores) - min(scores)) for score in scores]


# BOLT


def _bolt(scores: list[float], k: int, alpha: float, published: bool) -> list[int]:
    powers = [value**alpha for value in _stretched(scores)]
    p = [power / sum(powers) for power in powers]
    u = [1 / k + j * (1 - 2 / k) / (k - 1) for j in range(k)] if published else [(j + 0.5) / k for j in range(k)]
    found = []
    for step in u:
        cumulated = 0.0
        for i, share in enumerate(p):
            cumulated += share
            if cumulated >= step - 1e-12:
                found.append(i)
                break
    distinct = set(found)
    for i in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        if len(distinct) < k:
            distinct.add(i)
    return sorted(distinct)


@pytest.mark.parametrize("seed", range(20))
def test_bolt_is_inverse_transform_sampling(seed: int) -> None:
    scores = _scores(seed, 90)
    for k, alpha, published in itertools.product((3, 4, 8, 16, 33), (3.0, 2.5), (False, True)):
        found = bolt(np.array(scores), k, alpha, "published" if published else "midpoints")
        assert found.tolist() == _bolt(scores, k, alpha, published)


# AKS


def _aks(scores: list[float], k: int, t1: float, t2: float, depth: int) -> list[int]:
    relevance = _stretched(scores)
    depth = min(depth, int(math.log2(k) + 1e-9))
    found: list[tuple[list[int], int]] = []

    def judge(segment: list[int], d: int) -> None:
        values = [relevance[i] for i in segment]
        top = sorted(values, reverse=True)[:k]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        stays = sum(top) / len(top) - mean > t1 and deviation > t2
        if stays or d >= depth:
            found.append((segment, d))
        else:
            middle = len(segment) // 2
            judge(segment[:middle], d + 1)
            judge(segment[middle:], d + 1)

    judge(list(range(len(scores))), 0)
    shares = [int(k / 2**d) for _, d in found]
    by_remainder = sorted(
        range(len(found)),
        key=lambda leaf: (-(k / 2 ** found[leaf][1] % 1), -max(relevance[i] for i in found[leaf][0])),
    )
    for leaf in by_remainder[: k - sum(shares)]:
        shares[leaf] += 1
    picks = []
    for (segment, _), share in zip(found, shares, strict=True):
        picks += sorted(segment, key=lambda i: -relevance[i])[:share]
    return sorted(picks)


@pytest.mark.parametrize("seed", range(20))
def test_aks_splits_and_judges(seed: int) -> None:
    scores = _scores(seed, 301)
    for k, (t1, depth) in itertools.product((1, 2, 3, 4, 6, 8, 12, 16, 23, 32), ((0.8, 5), (0.2, 3), (0.4, 4))):
        assert aks(np.array(scores), k, t1, -100.0, depth).tolist() == _aks(scores, k, t1, -100.0, depth)
    for t2 in (0.1, 0.25):
        assert aks(np.array(scores), 16, 0.3, t2, 4).tolist() == _aks(scores, 16, 0.3, t2, 4)


def test_aks_shares_out_the_whole_budget() -> None:
    """In the authors' code 4, 8 and 16 frames of noise are none, and those of K = 6 are fewer."""
    noise = SHAPES["noise"](300)
    for k in (4, 8, 16):
        found = leaves((noise - noise.min()) / np.ptp(noise), k, 0.8, -100, 5)
        assert len(found) == k and sum(k / 2**deep for *_, deep in found) == k
    assert len(aks(noise, 6)) == 6
    assert aks(noise, 8, t1=0.2, depth=0).tolist() == np.sort(np.argsort(-noise)[:8]).tolist()  # plain top-k


def test_shares_sum_to_the_total_and_fit() -> None:
    assert apportioned(np.array([1.0, 1.0, 1.0]), 4, np.array([9, 9, 9])).tolist() == [2, 1, 1]
    assert apportioned(np.array([0.6, 0.25, 0.15]), 10, np.array([99, 99, 99])).tolist() == [6, 3, 1]
    assert apportioned(np.array([0.9, 0.1]), 10, np.array([3, 20])).tolist() == [3, 7]
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights, capacity = rng.random(6) * rng.integers(0, 2, 6), rng.integers(0, 9, 6)
        total = int(rng.integers(0, capacity.sum() + 1))
        shares = apportioned(weights, total, capacity)
        assert shares.sum() == total and (shares <= capacity).all() and (shares >= 0).all()


# mDP3


def _k(x: Features, y: Features) -> float:
    distance = sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True))
    return sum(math.exp(-distance / (2 * 2.0**power)) for power in range(-3, 2))


def _mdp3(f: Features, q: Features, k: int, weight: float, m: int) -> list[int]:
    """Every state of the dynamic programme by itself, every determinant from its matrix."""
    matrix = np.array([[_k(a, b) for b in f] for a in f])
    log_r = [math.log(_k(a, q)) for a in f]

    def value(frames: list[int], before: list[int]) -> float:
        both = frames + before
        bare = float(np.linalg.slogdet(matrix[np.ix_(before, before)])[1]) if before else 0.0
        return float(
            2 / weight * sum(log_r[i] for i in frames) + np.linalg.slogdet(matrix[np.ix_(both, both)])[1] - bare
        )

    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for first in range(0, len(f), m):
        segment = list(range(first, min(first + m, len(f))))
        after: dict[int, tuple[float, list[int]]] = {}
        for so_far, (worth, chosen) in best.items():
            before = chosen[-1:]
            taken: list[int] = []
            for more in range(min(k - so_far, len(segment)) + 1):
                if more:
                    rest = [i for i in segment if i not in taken]
                    taken.append(max(rest, key=lambda i: value([*taken, i], before)))
                total = worth + (value(taken, before) if taken else 0.0)
                if so_far + more not in after or total > after[so_far + more][0]:
                    after[so_far + more] = (total, chosen + sorted(taken))
        best = after
    return best[k][1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("m", [4, 5, 9, 100])
def test_mdp3_is_the_dynamic_programme_over_conditional_determinants(seed: int, m: int) -> None:
    features = shots(19, width=6, length=4, seed=seed)
    query = unit(np.random.default_rng(seed + 50).normal(size=6) + features[seed])
    for k, weight in ((1, 0.2), (3, 0.2), (6, 1.0)):
        assert mdp3(features, query, k, weight, m).tolist() == _mdp3(features, query, k, weight, m)


def test_mdp3_does_not_show_the_same_picture_twice() -> None:
    features = unit(np.random.default_rng(0).normal(size=(6, 32)))[np.arange(60) // 10]
    found = mdp3(features, unit(features[0] + features[25]), 6, weight=2.0)
    assert sorted(found // 10) == list(range(6))


# AdaQ and Q-Frame


def _adaq(scores: list[float], gamma: float, mass: float) -> tuple[list[int], list[float]]:
    """The frames that are kept, the most probable first, and their probabilities."""
    shown = _stretched(scores)
    mean = sum(shown) / len(shown)
    temperature = gamma * sum((value - mean) ** 2 for value in shown) / len(shown)
    weights = [math.exp((score - max(scores)) / temperature) for score in scores]
    p = [weight / sum(weights) for weight in weights]
    kept: list[int] = []
    for i in sorted(range(len(p)), key=lambda i: -p[i]):
        kept.append(i)
        if sum(p[j] for j in kept) >= mass:
            break
    return kept, [p[i] / sum(p[j] for j in kept) for i in kept]


def _inclusion(p: list[float], k: int) -> list[float]:
    """Probability of each to be among k draws without repetition, by all sequences of draws."""
    found = [0.0] * len(p)
    for sequence in itertools.permutations(range(len(p)), k):
        probability, left = 1.0, 1.0
        for i in sequence:
            probability *= p[i] / left
            left -= p[i]
        for i in sequence:
            found[i] += probability
    return found


@pytest.mark.parametrize("gamma", [0.5, 1.5])
def test_adaq_draws_in_proportion_from_the_frames_that_hold_the_mass(gamma: float) -> None:
    scores = [0.20, 0.24, 0.31, 0.26, 0.22, 0.29, 0.05, 0.28]
    kept, p = _adaq(scores, gamma, 0.9)
    assert 3 < len(kept) < len(scores)
    rng, often, draws = np.random.default_rng(0), np.zeros(len(scores)), 6000
    for _ in range(draws):
        often[adaq(np.array(scores), 3, rng, gamma, 0.9)] += 1
    expected = np.zeros(len(scores))
    expected[kept] = _inclusion(p, 3)
    assert often[expected == 0].sum() == 0
    assert np.abs(often / draws - expected).max() < 4 * 0.5 / math.sqrt(draws)


@pytest.mark.parametrize("seed", range(10))
def test_adaq_takes_all_it_keeps_and_then_the_next(seed: int) -> None:
    scores = _scores(seed, 60)
    kept, _ = _adaq(scores, 0.01, 0.997)
    assert len(kept) < 40
    ranked = sorted(range(60), key=lambda i: -scores[i])
    for k in (len(kept), len(kept) + 7):
        assert adaq(np.array(scores), k, np.random.default_rng(seed), 0.01).tolist() == sorted(ranked[:k])


def test_qframe_draws_in_proportion_to_the_softmax() -> None:
    logits = np.array([1.0, 0.2, -0.5, 1.4, 0.0])
    weights = np.exp(logits / 0.8)
    expected = _inclusion((weights / weights.sum()).tolist(), 2)
    rng, often, draws = np.random.default_rng(0), np.zeros(5), 6000
    for _ in range(draws):
        often[gumbel_top_k(logits, 2, rng, 0.8)] += 1
    assert np.abs(often / draws - expected).max() < 4 * 0.5 / math.sqrt(draws)


# SLICE


def _slice(scores: list[float], k: int) -> list[int]:
    n, relevance = len(scores), _stretched(scores)
    sigma = math.log(n)
    reach = int(4 * sigma + 0.5)
    energy = []
    for i in range(n):
        total = weight = 0.0
        for d in range(-reach, reach + 1):
            j = (i + d) % (2 * n)
            j = 2 * n - 1 - j if j >= n else j  # mirrored, the end itself twice
            w = math.exp(-0.5 * (d / sigma) ** 2)
            total, weight = total + w * relevance[j], weight + w
        energy.append(total / weight)
    mass = [value + sum(energy) / n for value in energy]
    parts: list[list[int]] = [[] for _ in range(k)]
    cumulated = 0.0
    for i in range(n):
        cumulated += mass[i]
        parts[min(k - 1, max(0, math.ceil(k * cumulated / sum(mass) - 1e-9) - 1))].append(i)
    return [max(part, key=lambda i: (relevance[i], -i)) for part in parts]


@pytest.mark.parametrize("seed", range(10))
def test_slice_takes_the_best_of_equal_shares(seed: int) -> None:
    scores = _scores(seed, 120)
    for k in (1, 2, 5, 8, 16, 30):
        assert slice_mass(np.array(scores), k).tolist() == _slice(scores, k)


# MMR, KFC, MaxInfo


def _mmr(scores: FloatArray, f: Features, k: int, weight: float) -> list[int]:
    s = (scores - scores.min()) / np.ptp(scores)
    picks = [int(s.argmax())] if weight else [0]
    while len(picks) < k:
        worth = weight * s - (1 - weight) * (f @ f[picks].T).max(1)
        worth[picks] = -np.inf
        picks.append(int(worth.argmax()))
    return sorted(picks)


@pytest.mark.parametrize("seed", range(6))
def test_mmr_looks_again_only_at_few_and_finds_the_same(seed: int) -> None:
    features, scores = shots(900, seed=seed), np.array(_scores(seed, 900))
    for k, weight in ((5, 0.5), (32, 0.5), (32, 0.2), (20, 1.0), (12, 0.0)):
        assert mmr(scores, features, k, weight).tolist() == _mmr(scores, features, k, weight)


def _pair_sum(picks: list[int], s: FloatArray, f: Features) -> float:
    pairs = itertools.combinations(picks, 2)
    return math.fsum(float(s[i] + s[j]) / 2 + math.exp(-float(f[i] @ f[j])) for i, j in pairs)


def test_kfc_makes_the_sum_over_pairs_large() -> None:
    rng = np.random.default_rng(0)
    for seed in range(8):
        features, scores = shots(18, length=3, seed=seed), rng.normal(0.25, 0.2, 18)
        sums = {picks: _pair_sum(list(picks), scores, features) for picks in itertools.combinations(range(18), 4)}
        found = tuple(kfc(scores, features, 4).tolist())
        assert sum(value > sums[found] + 1e-9 for value in sums.values()) < 0.02 * len(sums)
        assert sums[found] >= sums[tuple(kfc(scores, features, 4, window=0).tolist())] - 1e-9


def test_maxinfo_spans_the_most() -> None:
    for seed in range(8):
        features = shots(16, width=9, length=2, seed=seed)
        rows = directions(features, 3)
        left = np.linalg.svd(features.astype(np.float64), full_matrices=False)[0][:, :3]
        assert np.abs(rows @ rows.T - left @ left.T).max() < 1e-6  # the same directions, whatever their signs
        volumes = {c: abs(float(np.linalg.det(rows[list(c)]))) for c in itertools.combinations(range(16), 3)}
        square = tuple(sorted(square_maxvol(rows).tolist()))
        exchanged = [volumes[c] for c in volumes if len(set(c) & set(square)) == 2]
        assert max(exchanged) <= 1.05 * volumes[square] + 1e-12
        found = max_volume(features, 5, rank=3).tolist()
        assert set(square) <= set(found)
        rest = [i for i in range(16) if i not in square]
        reach = {i: float(np.linalg.norm(rows[i] @ np.linalg.pinv(rows[list(square)]))) for i in rest}
        assert max(reach, key=lambda i: reach[i]) in found


def test_uniform_u3_samples_at_a_rate_first() -> None:
    times = np.arange(120) / 29.97 * 8  # 3.75 candidates a second: every fourth
    assert uniform_u3(times, 100).tolist() == [int(i) for i in np.linspace(0, 119, 100)]
    assert uniform_u3(times, 5).tolist() == [0, 28, 56, 84, 116]
    assert (uniform_u3(times, 30) == np.arange(0, 120, 4)).all()
