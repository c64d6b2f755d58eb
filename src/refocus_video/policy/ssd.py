"""The state-space-dual (SSD) recurrence of Mamba-2, as pure functions (METHOD §3; arXiv 2405.21060 §6).

For every head h the layer computes, token by token::

    state = exp(log_decay) · state + x ⊗ b          y = state · c

Three forms of the same sum: :func:`ssd_step` (one token), :func:`ssd_scan` (many tokens, chunk by chunk) and
:func:`ssd_branch` (many short continuations of one shared state).

Where we differ from the papers:

1. Plain matrix products instead of GPU kernels: it runs on any device, and autograd differentiates it.
2. Any length: the last chunk is filled with tokens that neither decay nor write.
3. b and c are shared by all heads (one group), as in the released models, and are never repeated per head.
4. Branches read the shared state through one product and keep only their own tokens; the released code copies the
   state once per branch. A state is never written in place.

Arithmetic is float32, or float64 for float64 inputs, also inside ``torch.autocast``: sums of thousands of tokens do not bear less.

Legend (lower case, because the papers' own letters clash): b batch, q questions, g branches of a question (group),
l tokens, s earlier tokens, c chunks, h heads, p channels per head, n state size.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from refocus_video.device import in_full_precision


@dataclass(frozen=True, slots=True)
class OwnTokens:
    """What a branch remembers of its own tokens, instead of a private copy of the state."""

    x: Tensor
    """Scaled inputs, (q, g, h, s, p)."""
    b: Tensor
    """Input directions, (q, g, s, n)."""
    decay: Tensor
    """Sum of the log-decays since the shared state, (q, g, h, s)."""


@in_full_precision
def ssd_step(x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of the recurrence.

    Args:
        x: input already multiplied by its step size, (b, h, p).
        log_decay: step size times the negative decay rate, (b, h).
        b: input direction, (b, n).
        c: output direction, (b, n).
        state: (b, h, p, n), left untouched.

    Returns:
        The output (b, h, p) and the new state (b, h, p, n).
    """
    decayed = log_decay.exp()[..., None, None] * state  # (b, h, p, n)
    state = decayed + x[..., None] * b[:, None, None, :]  # (b, h, p, n)
    y = state.flatten(1, 2) @ c[..., None]  # (b, h·p, 1)
    return y.view_as(x), state


@in_full_precision
def ssd_scan(x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, state: Tensor, *, chunk: int) -> tuple[Tensor, Tensor]:
    """The recurrence over a whole sequence of any length, differentiable.

    Args:
        x: inputs already multiplied by their step sizes, (b, l, h, p).
        log_decay: step sizes times the negative decay rates, (b, l, h). A token with zero x and zero log-decay
            leaves the state as it is.
        b: input directions, (b, l, n).
        c: output directions, (b, l, n).
        state: the state to start from, (b, h, p, n).
        chunk: most tokens that are treated as one matrix.

    Returns:
        The outputs (b, l, h, p) and the state after the last token (b, h, p, n).
    """
    length = x.shape[1]
    if length == 0:
        return x, state
    if length == 1:
        y, state = ssd_step(x[:, 0], log_decay[:, 0], b[:, 0], c[:, 0], state)
        return y[:, None], state
    # Chunks of equal size, so that a sequence a little longer than one chunk is not mostly filling.
    num_chunks = -(-length // chunk)
    size = -(-length // num_chunks)
    fill = num_chunks * size - length
    if fill:
        x = F.pad(x, (0, 0, 0, 0, 0, fill))
        log_decay, b, c = (F.pad(part, (0, 0, 0, fill)) for part in (log_decay, b, c))
    x = torch.unflatten(x, 1, (num_chunks, size)).transpose(2, 3)  # (b, c, h, l, p)
    decay = torch.unflatten(log_decay, 1, (num_chunks, size)).mT.cumsum(-1)  # (b, c, h, l)
    b = torch.unflatten(b, 1, (num_chunks, size))  # (b, c, l, n)
    c = torch.unflatten(c, 1, (num_chunks, size))  # (b, c, l, n)

    # 1. Inside a chunk: causal attention without softmax, weighted by the decay between the two tokens.
    weights = _decay_between(decay, decay) * (c @ b.mT)[:, :, None]  # (b, c, h, l, s)
    y = weights @ x  # (b, c, h, l, p)

    # 2. What each chunk alone leaves behind.
    to_end = (decay[..., -1:] - decay).exp()  # (b, c, h, l)
    written = (x * to_end[..., None]).transpose(-1, -2).flatten(2, 3) @ b  # (b, c, h·p, n)
    written = torch.unflatten(written, 2, state.shape[1:3])  # (b, c, h, p, n)

    # 3. The states between chunks: the only sequential part.
    through = decay[..., -1].exp()[..., None, None]  # (b, c, h, 1, 1)
    entering = []
    for i in range(num_chunks):
        entering.append(state)
        state = through[:, i] * state + written[:, i]  # (b, h, p, n)

    # 4. What each token reads from the state its chunk started with.
    read = c @ torch.stack(entering, 1).flatten(2, 3).mT  # (b, c, l, h·p)
    read = torch.unflatten(read, -1, state.shape[1:3])  # (b, c, l, h, p)
    y = y.transpose(2, 3) + decay.mT.exp()[..., None] * read  # (b, c, l, h, p)
    return y.flatten(1, 2)[:, :length], state


@in_full_precision
def ssd_branch(
    x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, state: Tensor, *, past: OwnTokens | None = None
) -> tuple[Tensor, OwnTokens]:
    """Continue every branch of every question by l tokens; the branches of a question share its state.

    One function for both uses: the sampler appends one token at a time (l = 1, with ``past``), and the teacher-forced
    pass takes all tokens at once. It costs l · (past + l) per branch, which suits the few picks of a budget.

    Args:
        x: inputs already multiplied by their step sizes, (q, g, l, h, p).
        log_decay: (q, g, l, h).
        b: input directions, (q, g, l, n).
        c: output directions, (q, g, l, n).
        state: one state per question, (q, h, p, n).
        past: the branches' own earlier tokens, None at the first.

    Returns:
        The outputs (q, g, l, h, p), and all own tokens so far.
    """
    new_x, new_b = x.transpose(2, 3), b  # (q, g, h, l, p), (q, g, l, n)
    decay = log_decay.mT.cumsum(-1)  # (q, g, h, l)
    if past is None:
        own = OwnTokens(new_x, new_b, decay)
    else:
        decay = decay + past.decay[..., -1:]
        own = OwnTokens(torch.cat([past.x, new_x], 3), torch.cat([past.b, new_b], 2), torch.cat([past.decay, decay], 3))
    q, g, length = b.shape[:3]
    shared = c.reshape(q, g * length, -1) @ state.flatten(1, 2).mT  # (q, g·l, h·p)
    shared = shared.view(q, g, length, *state.shape[1:3])  # (q, g, l, h, p)
    weights = _decay_between(decay, own.decay) * (c @ own.b.mT)[:, :, None]  # (q, g, h, l, s)
    y = (weights @ own.x).transpose(2, 3)  # (q, g, l, h, p)
    return y + decay.mT.exp()[..., None] * shared, own


def _decay_between(later: Tensor, earlier: Tensor) -> Tensor:
    """Causal ``exp(later - earlier)``, 0 where the earlier token comes after: (..., l), (..., s) -> (..., l, s).

    The last token of both is the same token. The mask comes before the exponential, which could overflow otherwise.
    """
    rows, columns = later.shape[-1], earlier.shape[-1]
    difference = later[..., :, None] - earlier[..., None, :]
    if rows == 1:
        return difference.exp()
    after = torch.ones(rows, columns, dtype=torch.bool, device=later.device).triu(columns - rows + 1)
    return difference.masked_fill(after, -torch.inf).exp()
