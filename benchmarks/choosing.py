"""How long each score-based selector takes for one question: 512 and 10 000 candidates, 32 frames, features of 768 numbers.

Scores are the cosines of made-up features, alike within a shot. Only the choice is timed, not the image–text model.

    python benchmarks/choosing.py [--candidates 512 10000] [--budget 32] [--width 768]
"""

import argparse
import time
from typing import Any

import numpy as np

from machine import keep
from refocus_video.selectors.known import SELECTORS, Parts, make_selector
from refocus_video.selectors.scored import Features, Scored, Seen

TARGETS_MS = {"mdp3 at 512": 500.0, "others at 10000": 20.0}
ROUNDS = 15
SHOT = 24


class Nothing:
    """Stands for a scorer that is never asked."""

    def open(self, candidates: object) -> Any:
        """It is not."""
        raise NotImplementedError


def unit(values: Any) -> Features:
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), dtype=np.float32)


def made_up(count: int, width: int) -> Seen:
    """Frames of shots, and a question that is about one of them."""
    rng = np.random.default_rng(0)
    shots = np.repeat(rng.normal(size=(count // SHOT + 1, width)), SHOT, 0)[:count]
    features = unit(shots + 0.6 * rng.normal(size=(count, width)))
    query = unit(0.4 * shots[count // 3] + rng.normal(size=width))
    scores = (features @ query).astype(np.float64)
    return Seen(scores, features, query, np.arange(count) / 4, scale=100.0)


def milliseconds(selector: Scored, seen: Seen, budget: int) -> dict[str, float]:
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        found = selector.choose(seen, budget, np.random.default_rng(0))
        taken.append((time.perf_counter() - begun) * 1e3)
        assert len(set(found.tolist())) == budget
    return {"median": round(float(np.median(taken)), 2), "least": round(min(taken), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, nargs="+", default=[512, 10_000])
    parser.add_argument("--budget", type=int, default=32)
    parser.add_argument("--width", type=int, default=768)
    asked = parser.parse_args()
    selectors: dict[str, Scored] = {}
    for name in SELECTORS.paths:
        factory = SELECTORS.load(name)
        if isinstance(factory, type) and issubclass(factory, Scored):
            made = make_selector(name, Parts(scorer=Nothing()))
            assert isinstance(made, Scored)
            selectors[name] = made
    results: dict[str, dict[str, dict[str, float]]] = {}
    for count in asked.candidates:
        seen = made_up(count, asked.width)
        for name, selector in selectors.items():
            results.setdefault(name, {})[str(count)] = milliseconds(selector, seen, asked.budget)
    keep("choosing", {"settings": vars(asked), "targets_ms": TARGETS_MS, "milliseconds": results})


if __name__ == "__main__":
    main()
