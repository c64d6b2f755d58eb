"""Which examples a step trains on, and with which random numbers: pure functions of seed and step.

Nothing about randomness has to be saved: a resumed run asks for step n and gets what the uninterrupted run got.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from refocus_video.types import Example


def step_rng(seed: int, step: int, rank: int = 0) -> np.random.Generator:
    """The random numbers of one step in one process."""
    return np.random.default_rng([seed, 1, step, rank])


def torch_generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """A torch generator seeded from a NumPy one."""
    return torch.Generator(device).manual_seed(int(rng.integers(2**62)))


def videos_of_step(videos: Sequence[str], step: int, per_step: int, seed: int) -> list[str]:
    """The videos of a step: epochs of shuffled videos laid end to end, cut into steps of ``per_step``."""
    places = range(step * per_step, (step + 1) * per_step)
    orders: dict[int, list[int]] = {}
    chosen = []
    for place in places:
        epoch, offset = divmod(place, len(videos))
        if epoch not in orders:
            orders[epoch] = np.random.default_rng([seed, 2, epoch]).permutation(len(videos)).tolist()
        chosen.append(videos[orders[epoch][offset]])
    return chosen


def questions_of_video(
    examples: Sequence[Example], count: int, types: Mapping[str, float], rng: np.random.Generator
) -> list[Example]:
    """Up to ``count`` examples of a video, drawn without repetition by the weights of their types (all alike if empty)."""
    pool = [example for example in examples if not types or types.get(example.question_type, 0) > 0]
    weights = np.array([types.get(example.question_type, 1.0) if types else 1.0 for example in pool])
    drawn = rng.choice(len(pool), min(count, len(pool)), replace=False, p=weights / weights.sum())
    return [pool[i] for i in drawn]


def learning_rate_factor(step: int, total: int, warmup: int, decay_from: float) -> float:
    """Linear warm-up, then constant, then linear to 5 % from the share ``decay_from`` of training on."""
    rising = min(1.0, (step + 1) / max(1, warmup))
    falling = 1.0 if step < decay_from * total else 1 - 0.95 * (step / total - decay_from) / (1 - decay_from)
    return rising * falling
