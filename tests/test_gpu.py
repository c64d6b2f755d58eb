"""What only a GPU can show: the back-ends of the scan agree there. Skipped where there is none."""

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from refocus_video.config import ComputeConfig, ScanChoice
from refocus_video.policy.scan import obstacle, scan
from refocus_video.policy.ssd import ssd_scan
from tiny_policy import tiny_features, tiny_policy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
DEVICE = torch.device("cuda")
HALF = torch.bfloat16


def needs_triton(gradient: bool) -> None:
    reason = obstacle(DEVICE, HALF, gradient=gradient)
    if reason is not None:
        pytest.skip(reason)


def random_parts(length: int, heads: int = 4, channels: int = 64, size: int = 128) -> list[Tensor]:
    """x, log-decay, b, c and state; the last tokens of the second row neither decay nor write."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE)

    x, log_decay = 0.3 * normal(2, length, heads, channels), -normal(2, length, heads).abs()
    x[1, -3:], log_decay[1, -3:] = 0, 0
    # Numbers that bfloat16 holds exactly, so that what differs is the arithmetic.
    x, b, c = (part.to(HALF).float() for part in (x, normal(2, length, size), normal(2, length, size)))
    return [x, log_decay, b, c, normal(2, heads, channels, size)]


def assert_near(found: Sequence[Tensor], expected: Sequence[Tensor], limit: float) -> None:
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        error = float((ours.double() - theirs).norm() / theirs.norm())
        assert error < limit, f"tensor {i}: relative error {error:.1e}"


@pytest.mark.parametrize("length", [2, 64, 200, 4096])
def test_triton_equals_the_plain_scan(length: int) -> None:
    needs_triton(gradient=False)
    x, log_decay, b, c, state = random_parts(length)
    with torch.no_grad():
        found = scan(x, log_decay, b, c, state, chunk=64, dtype=HALF, choice="triton")
        wide = [part.double() for part in (x, log_decay, b, c, state)]
        expected = ssd_scan(*wide, chunk=64)
    assert found[0].dtype == found[1].dtype == torch.float32
    assert_near(found, expected, 1e-2)


def test_gradient_of_triton_equals_that_of_the_plain_scan() -> None:
    needs_triton(gradient=True)
    parts = [part.requires_grad_() for part in random_parts(200)]

    def gradient(choice: ScanChoice) -> tuple[Tensor, ...]:
        x, log_decay, b, c, state = parts
        y, after = scan(x, log_decay, b, c, state, chunk=64, dtype=HALF, choice=choice)
        return torch.autograd.grad(y.sin().sum() + after.sin().sum(), parts)

    assert_near(gradient("triton"), [part.double() for part in gradient("torch")], 3e-2)


def test_an_index_is_the_same_by_both() -> None:
    needs_triton(gradient=False)
    low = tiny_policy(d_state=16, headdim=16).to(DEVICE, HALF)
    full = copy.deepcopy(low).double()
    features = tiny_features(low, frames=40).to(DEVICE, HALF)
    with torch.no_grad():
        expected = full.index(features.double())
        for choice in ("torch", "triton"):
            low.backbone.compute = ComputeConfig(scan=choice)
            assert low.backbone.backend() == choice
            found = low.index(features, segment=7)
            assert_near([found.keys, found.state.layers[-1].ssm], [expected.keys, expected.state.layers[-1].ssm], 3e-2)


def test_full_weights_keep_the_plain_scan() -> None:
    policy = tiny_policy().to(DEVICE)
    assert policy.backbone.backend() == "torch"


def test_the_plain_path_compiles_on_a_gpu() -> None:
    parts = random_parts(200)
    compiled = torch.compile(ssd_scan, fullgraph=True)
    assert_near(compiled(*parts, chunk=64), ssd_scan(*parts, chunk=64), 1e-3)
