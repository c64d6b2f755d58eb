"""Q-Frame's choice of frames: K drawn without repetition from a softmax of the logits (arXiv 2506.22139, ICCV 2025).

    p = softmax(ℓ / τ), τ = 0.8;  key_i = log p_i − log(−log U_i);  the K largest keys

Where we differ from the authors' code:
1. ℓ is the cosine times the model's own logit scale; theirs is the product of features that were not normalised, which only
   LongCLIP gives at a useful scale.
2. All frames keep one size: which resolution each frame gets is a matter of the answering model.
3. A seed; and no question is ever answered with random frames because its wording is not known.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.selectors.ranking import cleaned, fitting, gumbel_order
from refocus_video.selectors.scored import Scored, Seen
from refocus_video.types import FloatArray, IntArray


def gumbel_top_k(logits: FloatArray, budget: int, rng: np.random.Generator, temperature: float = 0.8) -> IntArray:
    """A draw without repetition in proportion to softmax(logits / temperature), (min(K, F),) in temporal order."""
    order = gumbel_order(cleaned(logits) / temperature, rng)
    return np.sort(order[: fitting(budget, len(order))])


@dataclass(frozen=True, kw_only=True)
class QFrame(Scored):
    """Q-Frame: a draw from the softmax of the logits (arXiv 2506.22139)."""

    name: str = "qframe"
    temperature: Annotated[float, Field(gt=0)] = 0.8

    def choose(self, seen: Seen, budget: int, rng: np.random.Generator) -> IntArray:
        """Drawn with the selector's seed."""
        return gumbel_top_k(seen.scores * seen.scale, budget, rng, self.temperature)
