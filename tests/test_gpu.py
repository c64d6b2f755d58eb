"""What only a GPU can show: the back-ends of the scan agree there, and every command runs. Skipped where there is none."""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from refocus_video.cli.console import progress
from refocus_video.config import ComputeConfig, RunConfig, SamplingConfig, ScanChoice, named_config
from refocus_video.data.examples import read_examples
from refocus_video.evaluation import Comparison, default_selectors, run_comparison
from refocus_video.filter_run import filter_questions
from refocus_video.pipeline import train_policy
from refocus_video.policy.index import load_index, save_index
from refocus_video.policy.scan import obstacle, scan
from refocus_video.policy.ssd import ssd_scan
from refocus_video.selectors.learned import FrameSelector
from refocus_video.selectors.picking import Options
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


# ------------------------------------------------------------------ the whole path on the GPU


TINY = (f"compute.device={DEVICE}", "train.max_steps=2", "train.stages=[{until: 1, budgets: [2]}]", "filter.budget=2")


def haystack_config(*overrides: str) -> RunConfig:
    return RunConfig.load(named_config("haystack"), (*TINY, *overrides))


def test_a_gpu_selects_what_the_processor_selects(haystack: Path) -> None:
    video = read_examples(haystack / "validation.jsonl")[0].video
    options: list[Options] = [
        {},
        {"temperature": 1.0, "seed": 5},
        {"min_gap": 1.0},
        {"strategy": "marginal", "samples": 8},
    ]
    found = []
    for device in ("cpu", str(DEVICE)):
        selector = FrameSelector(tiny_policy().to(device), sampling=SamplingConfig(fps=2.0))
        opened = selector.open(video)
        found.append([opened.select("which card is red", 4, **each).frame_indices.tolist() for each in options])
    assert found[0] == found[1]


def test_an_index_moves_between_devices(tmp_path: Path) -> None:
    policies = [tiny_policy().to(device) for device in ("cpu", DEVICE)]
    with torch.no_grad():
        expected = policies[0].index(tiny_features(policies[0], videos=1))
        for here, there in (policies, policies[::-1]):
            path = tmp_path / f"{here.device.type}.safetensors"
            save_index(path, here.index(tiny_features(here, videos=1)), {}, {})
            found = load_index(path, there).index
            assert found.keys.device.type == there.device.type
            assert_near([found.keys.cpu()], [expected.keys.double()], 1e-3)


@pytest.mark.parametrize(
    "extra", [(), ("train.bf16=true", "train.per_device_train_batch_size=2")], ids=["plain", "lean"]
)
def test_filter_train_and_evaluate_on_a_gpu(haystack: Path, tmp_path: Path, extra: tuple[str, ...]) -> None:
    config = haystack_config(*extra)
    questions = haystack / "train.jsonl"
    filtered = filter_questions(questions, tmp_path / "filter", config, progress)
    assert filtered["measured"] == filtered["asked"]
    trained = train_policy(questions, tmp_path / "train", config, progress, features=tmp_path / "features")
    assert trained["last"]["step"] == 2
    assert torch.isfinite(torch.tensor([trained["last"]["loss"], trained["last"]["grad_norm"]])).all()
    comparison = Comparison(default_selectors(trained["policy"], 0), (config.reference,), (1, 2))
    (results,) = run_comparison(
        [haystack / "validation.jsonl"], comparison, tmp_path / "eval", config, progress
    ).values()
    assert results["rows"] and not results["failures"]


def test_a_resumed_training_on_a_gpu_goes_on(haystack: Path, tmp_path: Path) -> None:
    def last(name: str, *overrides: str) -> dict[str, Any]:
        config, features = haystack_config("train.save_steps=1", *overrides), tmp_path / "features"
        found = train_policy(haystack / "train.jsonl", tmp_path / name, config, progress, features=features)["last"]
        return {key: value for key, value in found.items() if key != "seconds"}

    whole = last("run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-000002")
    assert last("run") == pytest.approx(whole, rel=1e-3, abs=1e-4)
