"""One more token for every subset, and what subsets remember between two tokens.

A step is a function ``(inputs, memory) -> (hidden states, memory)``. :func:`advance` is the plain one; capture.py has one
for single subsets that a GPU replays.

Subsets of a group share the state of their question, start token included, and keep only their own picks beside it. A
subset that is alone with its question has nobody to share with: it carries the state on, which costs the same at every
pick.

Legend: Q questions, G subsets per question (group), D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from refocus_video.policy.mamba2 import Backbone, Branches, State


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Memory:
    """What the subsets of Q questions remember of the tokens so far."""

    state: State
    """Of the questions, Q rows: shared by the subsets of a group, or carried on by the only one."""
    own: Branches | None = None
    """The subsets' own tokens, where they share a state."""


Step = Callable[[Tensor, Memory], tuple[Tensor, Memory]]
"""Inputs (Q, G, D) and a memory to hidden states (Q, G, D) and the memory after them."""


def advance(backbone: Backbone, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Run one token of each subset: embeddings (Q, G, D) -> hidden states (Q, G, D), and the new memory."""
    if inputs.shape[1] == 1 and memory.own is None:
        hidden, state = backbone(inputs, memory.state)  # the subset of a question is a sequence of one token
        return hidden, Memory(state)
    hidden, own = backbone.branch(inputs[:, :, None], memory.state, memory.own)
    return hidden[:, :, 0], Memory(memory.state, own)
