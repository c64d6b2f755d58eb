"""Recomputing cells of layers × segment: the same gradient as keeping everything, in bounded memory."""

import pytest
import torch
from torch import Tensor

from refocus_video.config import ComputeConfig
from refocus_video.policy.mamba2 import State
from refocus_video.policy.policy import FramePolicy
from tiny_policy import QUESTIONS, tiny_features, tiny_policy

DOUBLE = torch.float64
LAYERS, FRAMES = 4, 9


def new_policy() -> FramePolicy:
    policy = tiny_policy(DOUBLE, n_layer=LAYERS)
    policy.vision.tower.requires_grad_(False)
    return policy


def tensors(state: State) -> list[Tensor]:
    return [part for layer in state.layers for part in (layer.conv, layer.ssm)]


def gradients(policy: FramePolicy, segment: int, lengths: Tensor | None, carried: bool) -> dict[str, Tensor]:
    """Of all weights, the features and the carried state, from a loss that sees everything that comes out."""
    features = tiny_features(policy, frames=FRAMES, dtype=DOUBLE).requires_grad_()
    before = policy.start_index(2).state.detach()
    if carried:
        before = policy.index(tiny_features(policy, frames=3, dtype=DOUBLE)).state.detach()
    before = before.map(lambda part: part.clone().requires_grad_())
    index = policy.continue_index(before, features, lengths, segment)
    asked = policy.ask(index, QUESTIONS[:2], torch.arange(2))
    scores = policy.log_probs(index, asked, torch.tensor([[[0, 2], [3, 1]], [[4, 0], [2, 3]]]))
    loss = scores.log_probs.sum() + scores.entropy.sum() + sum(part.sin().sum() for part in tensors(index.state))
    named: dict[str, Tensor] = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    named["features"] = features
    named |= {f"state.{i}": part for i, part in enumerate(tensors(before))}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("lengths", [None, torch.tensor([9, 5])])
@pytest.mark.parametrize(("segment", "cell"), [(4, 1), (4, 2), (2, 3), (1, 4), (5, 100)])
def test_gradient_is_that_of_keeping_everything(segment: int, cell: int, lengths: Tensor | None, carried: bool) -> None:
    policy = new_policy()
    expected = gradients(policy, FRAMES, lengths, carried)
    policy.backbone.compute = ComputeConfig(cell_layers=cell)
    found = gradients(policy, segment, lengths, carried)
    assert found.keys() == expected.keys()
    assert {"features", "state.0", "state.7", "backbone.layers.0.mixer.A_log"} <= found.keys()
    assert all(gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11, msg=name)


def kept_bytes(policy: FramePolicy, frames: int, segment: int, cell: int) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    policy.backbone.compute = ComputeConfig(cell_layers=cell)
    features = tiny_features(policy, videos=1, frames=frames, dtype=DOUBLE)
    known = {p.untyped_storage().data_ptr() for p in (*policy.parameters(), features)}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        index = policy.index(features, segment=segment)
    assert index.keys.requires_grad
    return sum(sizes.values())


def test_what_is_inside_the_cells_is_not_kept() -> None:
    policy = new_policy()
    everything, segments, cells = (
        kept_bytes(policy, 64, segment, cell) for segment, cell in ((64, LAYERS), (8, LAYERS), (8, 1))
    )
    assert segments < cells < everything / 4


def test_a_video_of_one_segment_recomputes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("recomputing costs time that a short video need not pay")

    monkeypatch.setattr("refocus_video.policy.mamba2.checkpoint", refuse)
    policy = new_policy()
    policy.index(tiny_features(policy, dtype=DOUBLE))
    with torch.no_grad():
        policy.index(tiny_features(policy, dtype=DOUBLE), segment=2)
    with pytest.raises(AssertionError, match="recomputing costs"):
        policy.index(tiny_features(policy, dtype=DOUBLE), segment=2)


def test_the_segment_is_a_setting() -> None:
    policy = new_policy()
    assert policy.frames_per_segment == 4096 // policy.config.tokens_per_frame
    policy.backbone.compute = ComputeConfig(segment_tokens=2 * policy.config.tokens_per_frame + 1)
    assert policy.frames_per_segment == 2
    policy.backbone.compute = ComputeConfig(segment_tokens=1)
    assert policy.frames_per_segment == 1
