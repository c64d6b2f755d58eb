"""The backbone against transformers' Mamba-2, and its own ways of running against each other."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Mamba2Config, Mamba2Model

from refocus_video.policy.mamba2 import Backbone, State
from tiny_policy import tiny_config

DOUBLE = torch.float64


def tiny_backbone(dtype: torch.dtype = DOUBLE, **changes: Any) -> Backbone:
    torch.manual_seed(0)
    backbone = Backbone(tiny_config(**changes)).to(dtype)
    with torch.no_grad():  # a trained model's scales differ from one
        for name, weight in backbone.named_parameters():
            if "norm" in name or name.endswith(".D"):
                weight.uniform_(0.5, 1.5)
    return backbone


def random_embeddings(*sizes: int) -> Tensor:
    return torch.randn(*sizes, 16, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def assert_same_state(found: State, expected: State) -> None:
    for a, b in zip(found.layers, expected.layers, strict=True):
        assert_close(a.conv, b.conv)
        assert_close(a.ssm, b.ssm)


@pytest.mark.parametrize("length", [3, 16, 37])
def test_backbone_equals_transformers(length: int) -> None:
    backbone = tiny_backbone(torch.float32)
    config = Mamba2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=8,
        state_size=8,
        n_groups=1,
        expand=2,
        conv_kernel=4,
        chunk_size=16,
        vocab_size=backbone.embedding.num_embeddings,
        layer_norm_epsilon=1e-5,
        use_bias=False,
        use_conv_bias=True,
    )
    other = Mamba2Model(config).eval()
    weights = {name.replace("embedding.", "embeddings."): w for name, w in backbone.state_dict().items()}
    other.load_state_dict(weights)
    ids = torch.randint(0, backbone.embedding.num_embeddings, (2, length))
    with torch.no_grad():
        expected = other(input_ids=ids, use_cache=True)
        found, state = backbone(backbone.embedding(ids), backbone.initial_state(2))
    torch.testing.assert_close(found, expected.last_hidden_state, rtol=0, atol=1e-5)
    for ours, theirs in zip(state.layers, expected.cache_params.layers, strict=True):
        torch.testing.assert_close(ours.ssm, theirs.recurrent_states[0], rtol=0, atol=1e-5)
        # Theirs keeps one input more than the next token needs.
        torch.testing.assert_close(ours.conv.mT, theirs.conv_states[0][..., -3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pieces", [[1] * 13, [4, 9], [2, 1, 10], [12, 1]])
def test_pieces_and_steps_equal_the_whole(pieces: list[int]) -> None:
    backbone, x = tiny_backbone(), random_embeddings(2, 13)
    expected, expected_state = backbone(x, backbone.initial_state(2))
    state, outputs = backbone.initial_state(2), []
    for part in torch.split_with_sizes(x, pieces, 1):
        hidden, state = backbone(part, state)
        outputs.append(hidden)
    assert_close(torch.cat(outputs, 1), expected)
    assert_same_state(state, expected_state)


@pytest.mark.parametrize("lengths", [[6, 2, 0, 11], [11, 1, 3, 4]])
def test_right_padding_leaves_outputs_and_states_alone(lengths: list[int]) -> None:
    backbone, x = tiny_backbone(), random_embeddings(4, 11)
    _, start = backbone(random_embeddings(4, 5), backbone.initial_state(4))
    hidden, state = backbone(x, start, torch.tensor(lengths))
    for i, length in enumerate(lengths):
        row = torch.tensor([i])
        expected, expected_state = backbone(x[row, :length], start.select(row))
        assert_close(hidden[row, :length], expected)
        assert_same_state(state.select(row), expected_state)


def test_branches_equal_separate_continuations() -> None:
    backbone = tiny_backbone()
    _, state = backbone(random_embeddings(2, 8), backbone.initial_state(2))
    x = random_embeddings(2, 3, 6)
    together, _ = backbone.branch(x, state)
    past, outputs = None, []
    for t in range(6):
        hidden, past = backbone.branch(x[:, :, t : t + 1], state, past)
        outputs.append(hidden)
    assert_close(torch.cat(outputs, 2), together)
    for g in range(3):
        alone, _ = backbone(x[:, g], state)
        assert_close(together[:, g], alone)


def test_initial_rates_follow_the_paper() -> None:
    torch.manual_seed(0)
    backbone = Backbone(tiny_config(d_model=512, n_layer=1))
    mixer = backbone._blocks()[0].mixer
    rates, steps = mixer.A_log.exp(), torch.nn.functional.softplus(mixer.dt_bias)
    assert rates.min() >= 1 and rates.max() <= 16 and rates.std() > 3
    assert steps.min() >= 1e-3 * 0.999 and steps.max() <= 1e-1 * 1.001
    assert steps.log().std() > 1


def test_low_precision_weights_keep_wide_states_and_residuals() -> None:
    backbone, x = tiny_backbone(), random_embeddings(2, 20)
    expected, _ = backbone(x, backbone.initial_state(2))
    low = copy.deepcopy(backbone).bfloat16()
    hidden, state = low(x.bfloat16(), low.initial_state(2))
    assert hidden.dtype == torch.bfloat16
    assert all(layer.ssm.dtype == torch.float32 for layer in state.layers)
    assert (hidden - expected).abs().mean() < 0.05
