"""The SSD recurrence: every form of it equals the naive token-by-token sum, in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refocus_video.policy.ssd import OwnTokens, ssd_branch, ssd_scan, ssd_step

HEADS, CHANNELS, STATE = 3, 4, 5

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def random_inputs(*sizes: int, seed: int = 0, strength: float = 1.0) -> Inputs:
    """x, log_decay, b and c for the given leading sizes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*sizes, *shape, generator=generator, dtype=torch.float64)

    return normal(HEADS, CHANNELS), -strength * normal(HEADS).abs(), normal(STATE), normal(STATE)


def random_state(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(rows, HEADS, CHANNELS, STATE, generator=generator, dtype=torch.float64)


def at(inputs: Inputs, place: Any) -> Inputs:
    """The same place of all four."""
    x, log_decay, b, c = inputs
    return x[place], log_decay[place], b[place], c[place]


def naive(x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, written with einsum and a loop."""
    outputs = []
    for t in range(x.shape[1]):
        state = torch.einsum("bh,bhpn->bhpn", log_decay[:, t].exp(), state)
        state = state + torch.einsum("bhp,bn->bhpn", x[:, t], b[:, t])
        outputs.append(torch.einsum("bhpn,bn->bhp", state, c[:, t]))
    return torch.stack(outputs, 1), state


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 65, 130])
@pytest.mark.parametrize("chunk", [1, 3, 16, 64, 1000])
def test_scan_equals_the_definition(length: int, chunk: int) -> None:
    inputs, state = random_inputs(2, length), random_state(2)
    expected_y, expected_state = naive(*inputs, state)
    y, after = ssd_scan(*inputs, state, chunk=chunk)
    assert_close(y, expected_y)
    assert_close(after, expected_state)


def test_scan_of_nothing_changes_nothing() -> None:
    state = random_state(2)
    y, after = ssd_scan(*random_inputs(2, 0), state, chunk=4)
    assert y.shape == (2, 0, HEADS, CHANNELS)
    assert torch.equal(after, state)


@pytest.mark.parametrize("cut", [1, 5, 16, 29])
def test_scan_continues_from_a_carried_state(cut: int) -> None:
    inputs, state = random_inputs(2, 30), random_state(2)
    expected_y, expected_state = ssd_scan(*inputs, state, chunk=8)
    first, middle = ssd_scan(*at(inputs, np.s_[:, :cut]), state, chunk=8)
    second, after = ssd_scan(*at(inputs, np.s_[:, cut:]), middle, chunk=8)
    assert_close(torch.cat([first, second], 1), expected_y)
    assert_close(after, expected_state)


def test_steps_equal_the_scan_and_leave_their_state_alone() -> None:
    inputs, start = random_inputs(2, 12), random_state(2)
    expected_y, expected_state = ssd_scan(*inputs, start, chunk=5)
    state, outputs = start, []
    for t in range(12):
        y, state = ssd_step(*at(inputs, np.s_[:, t]), state)
        outputs.append(y)
    assert_close(torch.stack(outputs, 1), expected_y)
    assert_close(state, expected_state)
    assert torch.equal(start, random_state(2))


def test_strong_decay_neither_overflows_nor_breaks_the_gradient() -> None:
    x, log_decay, b, c = random_inputs(1, 40, strength=80.0)
    x, log_decay = x.float().requires_grad_(), log_decay.float().requires_grad_()
    y, state = ssd_scan(x, log_decay, b.float(), c.float(), random_state(1).float(), chunk=16)
    assert y.isfinite().all() and state.isfinite().all()
    for gradient in torch.autograd.grad(y.sum() + state.sum(), [x, log_decay]):
        assert gradient.isfinite().all()


def test_gradient_of_the_scan_equals_finite_differences() -> None:
    inputs = [part.requires_grad_() for part in (*random_inputs(1, 7), random_state(1))]
    assert torch.autograd.gradcheck(lambda *args: ssd_scan(*args, chunk=3), inputs)


def branches_one_by_one(inputs: Inputs, state: Tensor) -> Tensor:
    """Every branch with a private copy of its question's state."""
    rows = [
        [naive(*at(inputs, np.s_[q : q + 1, g]), state[q : q + 1])[0][0] for g in range(inputs[0].shape[1])]
        for q in range(len(state))
    ]
    return torch.stack([torch.stack(group) for group in rows])


@pytest.mark.parametrize("length", [1, 4, 9])
def test_branches_equal_private_copies_of_the_state(length: int) -> None:
    inputs, state = random_inputs(2, 3, length), random_state(2)
    y, own = ssd_branch(*inputs, state)
    assert_close(y, branches_one_by_one(inputs, state))
    assert own.x.shape == (2, 3, HEADS, length, CHANNELS)


@pytest.mark.parametrize("pieces", [[1] * 9, [4, 5], [1, 7, 1]])
def test_branches_grow_by_any_number_of_tokens(pieces: list[int]) -> None:
    inputs, state = random_inputs(2, 3, 9), random_state(2)
    expected, _ = ssd_branch(*inputs, state)
    own: OwnTokens | None = None
    outputs = []
    ends = np.cumsum(pieces).tolist()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        y, own = ssd_branch(*at(inputs, np.s_[:, :, start:end]), state, past=own)
        outputs.append(y)
    assert_close(torch.cat(outputs, 2), expected)


def test_gradient_of_branches_equals_finite_differences() -> None:
    inputs = [part.requires_grad_() for part in (*random_inputs(1, 2, 3), random_state(1))]
    assert torch.autograd.gradcheck(lambda *args: ssd_branch(*args)[0], inputs)
