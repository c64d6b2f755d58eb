"""An answer written token by token: the most probable one each time."""

from collections.abc import Set
from typing import Any

import torch


def greedy(model: Any, inputs: dict[str, Any], ends: Set[int], most: int) -> list[int]:
    """The tokens that a language model writes after one row.

    Args:
        model: a ``...ForConditionalGeneration``.
        inputs: what its decoder is given for the row: embeddings (1, L, D), and positions (3, 1, L) or (1, L) where it needs them.
        ends: tokens that end an answer; they are not part of it.
        most: tokens at most.
    """
    decoder, head, embed = model.get_decoder(), model.get_output_embeddings(), model.get_input_embeddings()
    written: list[int] = []
    cache = None
    while len(written) < most:
        out = decoder(**inputs, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        token = int(head(out.last_hidden_state[:, -1]).argmax())
        if token in ends:
            break
        written.append(token)
        at = inputs["position_ids"]
        inputs = {
            "inputs_embeds": embed(torch.tensor([[token]], device=model.device)),
            # A token of text stands one place after the last, in every dimension of a position.
            "position_ids": None if at is None else at[..., -1:].amax() + torch.ones_like(at[..., -1:]),
        }
    return written
