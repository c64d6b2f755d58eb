"""Distilling a fixed preference over frames into the policy's picks. Pure.

The teacher likes frame f with probability softmax(logits)_f. Picking without replacement, its next pick among the frames that are
left has the same softmax over those alone (Plackett–Luce); that is what the policy's distribution at every pick is drawn to.

Dimensions: Q questions · G subsets of each · K picks · F candidate frames.
"""

import torch
from torch import Tensor

from refocus_video.policy.records import picked_before


def teacher_logits(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """Cosine similarities over temperature: (F, E) and (Q, E) of length 1 -> (Q, F)."""
    return texts.float() @ images.float().mT / temperature


def draw_subsets(logits: Tensor, budget: int, subsets: int, generator: torch.Generator | None = None) -> Tensor:
    """Subsets picked by the teacher, one frame after another without replacement, in picking order.

    Args:
        logits: (Q, F), −∞ where there is no frame.
        budget: K, at most as many as every question has frames.
        subsets: G.
        generator: of the random numbers, on the logits' device.

    Returns:
        (Q, G, K) int64.
    """
    shape = (len(logits), subsets, logits.shape[-1])
    uniform = torch.rand(shape, generator=generator, device=logits.device).clamp_min(1e-20)
    noise = (
        -(-uniform.log()).clamp_min(1e-20).log()
    )  # Gumbel: the order of the noisy logits is a draw without replacement
    return (logits[:, None].float() + noise).topk(budget, dim=-1).indices


def distillation_loss(log_probs: Tensor, logits: Tensor, picks: Tensor) -> Tensor:
    """KL(teacher ‖ policy) of the distribution over the next pick, mean over questions, subsets and picks; in nats.

    Args:
        log_probs: the policy's, of every candidate at each pick, (Q, G, K, F), −∞ where a frame is taken or does not exist.
        logits: the teacher's before any pick, (Q, F), −∞ where there is no frame.
        picks: (Q, G, K) in picking order.
    """
    taken = picked_before(picks, logits.shape[-1])  # (Q, G, K, F)
    teacher = logits[:, None, None].float().masked_fill(taken, -torch.inf).log_softmax(-1)
    left = teacher > -torch.inf
    # Where no frame is left both are −∞, and their difference would be NaN.
    difference = teacher.masked_fill(~left, 0) - log_probs.masked_fill(~left, 0)
    return (teacher.exp() * difference).sum(-1).mean()


def top_overlap(scores: Tensor, others: Tensor, count: int) -> Tensor:
    """Share of each row's ``count`` best frames that are among the other's: (Q, F) twice -> (Q,)."""
    best, wanted = (part.topk(count, dim=-1).indices for part in (scores, others))
    return (best[..., None] == wanted[..., None, :]).any(-1).float().mean(-1)


def spearman(scores: Tensor, others: Tensor) -> Tensor:
    """Rank correlation of two rows of scores without ties: (Q, F) twice -> (Q,), 0 where a row has a single frame."""
    first, second = (part.argsort(-1).argsort(-1).float() for part in (scores, others))
    first, second = (part - part.mean(-1, keepdim=True) for part in (first, second))
    norm = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    return (first * second).sum(-1) / norm.clamp_min(1e-12)
