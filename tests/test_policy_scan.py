"""The scan's back-ends: the same numbers under other names, chosen where they can run, and never in silence."""

import copy

import pytest
import torch
from torch import Tensor

from refocus_video.config import ScanChoice
from refocus_video.errors import ConfigError
from refocus_video.policy import scan as room
from refocus_video.policy.mamba2 import Backbone, State
from refocus_video.policy.scan import backend, obstacle, scan, scan_by_gla
from refocus_video.policy.ssd import ssd_scan
from test_policy_mamba2 import random_embeddings, tiny_backbone
from test_policy_ssd import random_inputs, random_state
from tiny_policy import tiny_features, tiny_policy

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    *,
    scale: float,
    initial_state: Tensor,
    output_final_state: bool,
    state_v_first: bool,
) -> tuple[Tensor, Tensor]:
    """The kernels' recurrence as their documentation states it, token by token; its own state is (b, h, key, value)."""
    assert q.shape == k.shape and q.shape[:3] == v.shape[:3] == g.shape and output_final_state
    state = initial_state.mT if state_v_first else initial_state
    outputs = []
    for t in range(q.shape[1]):
        state = g[:, t].exp()[..., None, None] * state + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        outputs.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1), state.mT if state_v_first else state


def with_gaps(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The second row's last tokens neither decay nor write, as where rows are padded."""
    x, log_decay, b, c = (part.clone() for part in inputs)
    x[1, -4:], log_decay[1, -4:] = 0, 0
    return x, log_decay, b, c


def test_the_recurrence_is_simple_gated_linear_attention() -> None:
    parts = [part.requires_grad_() for part in (*with_gaps(random_inputs(2, 23)), random_state(2))]
    x, log_decay, b, c, state = parts
    y, after = scan_by_gla(simple_gla, x, log_decay, b, c, state, torch.float64)
    expected_y, expected_after = ssd_scan(x, log_decay, b, c, state, chunk=5)
    torch.testing.assert_close(y, expected_y, rtol=0, atol=1e-10)
    torch.testing.assert_close(after, expected_after, rtol=0, atol=1e-10)
    found = torch.autograd.grad(y.sin().sum() + after.sin().sum(), parts)
    expected = torch.autograd.grad(expected_y.sin().sum() + expected_after.sin().sum(), parts)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_sixteen_bits_round_inputs_but_not_states() -> None:
    inputs, state = [part.float() for part in with_gaps(random_inputs(2, 200))], random_state(2).float()
    seen: dict[str, torch.dtype] = {}

    def kernel(q: Tensor, k: Tensor, v: Tensor, g: Tensor, **options: Tensor) -> tuple[Tensor, Tensor]:
        seen.update(q=q.dtype, v=v.dtype, g=g.dtype, state=options["initial_state"].dtype)
        return simple_gla(q.float(), k.float(), v.float(), g, **options)  # type: ignore[arg-type]

    x, log_decay, b, c = inputs
    y, after = scan_by_gla(kernel, x, log_decay, b, c, state, torch.bfloat16)
    assert seen == {"q": torch.bfloat16, "v": torch.bfloat16, "g": torch.float32, "state": torch.float32}
    expected_y, expected_after = ssd_scan(x, log_decay, b, c, state, chunk=64)
    assert (y - expected_y).norm() < 5e-3 * expected_y.norm()
    assert (after - expected_after).norm() < 5e-3 * expected_after.norm()


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were a GPU with all that the kernels need."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(room, "_obstacle_of", lambda device, gradient: None)


@pytest.mark.parametrize(
    ("choice", "dtype", "expected"),
    [
        ("auto", torch.bfloat16, "triton"),
        ("auto", torch.float16, "triton"),
        ("auto", torch.float32, "torch"),
        ("auto", torch.float64, "torch"),
        ("torch", torch.bfloat16, "torch"),
        ("triton", torch.float32, "triton"),
    ],
)
@pytest.mark.usefixtures("nvidia")
def test_auto_takes_the_kernels_where_they_lose_no_precision(
    choice: ScanChoice, dtype: torch.dtype, expected: str
) -> None:
    assert backend(choice, CUDA, dtype) == expected
    assert backend("auto", CPU, dtype) == "torch"


def test_what_was_asked_for_runs_or_says_why_not(nvidia: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"scan: triton cannot run here: its kernels need an NVIDIA GPU, not cpu; choose"
    ):
        backend("triton", CPU, torch.bfloat16)
    with pytest.raises(ConfigError, match="the weights are float64"):
        backend("triton", CUDA, torch.float64)
    monkeypatch.setattr(room, "_obstacle_of", lambda device, gradient: "the moon is full" if gradient else None)
    assert backend("auto", CUDA, torch.bfloat16, gradient=True) == "torch"
    assert backend("auto", CUDA, torch.bfloat16) == "triton"
    with pytest.raises(ConfigError, match="the moon is full"):
        backend("triton", CUDA, torch.bfloat16, gradient=True)


@pytest.mark.parametrize(
    ("capability", "triton", "gradient", "said"),
    [
        ((9, 0), "3.6.0", False, None),
        ((9, 0), "3.6.0+git1", True, "Hopper"),
        ((9, 0), "3.7.1", True, None),
        ((8, 0), "3.6.0", True, None),
        ((7, 5), "3.7.1", False, "8.0"),
    ],
)
def test_known_faults_of_machines_are_obstacles(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], triton: str, gradient: bool, said: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(room, "_kernel", lambda: simple_gla)
    monkeypatch.setattr(room, "version", lambda package: triton)
    room._obstacle_of.cache_clear()
    found = room._obstacle_of(CUDA, gradient)
    room._obstacle_of.cache_clear()
    assert found is None if said is None else found is not None and said in found


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ImportError("No module named 'fla'")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(room, "_kernel", missing)
    room._obstacle_of.cache_clear()
    assert "pip install 'refocus-video[triton]'" in str(obstacle(CUDA, torch.bfloat16))
    room._obstacle_of.cache_clear()


def test_the_kernels_are_used_where_they_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole backbone through the kernels' arguments, with lengths and a carried state."""
    backbone, x, lengths = tiny_backbone(), random_embeddings(2, 11), torch.tensor([11, 6])
    _, state = backbone(random_embeddings(2, 3), backbone.initial_state(2))
    expected, expected_state = backbone(x, state, lengths)
    calls = []

    def kernel(*args: Tensor, **options: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(args)
        return simple_gla(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "backend", lambda *args, **options: "triton")
    monkeypatch.setattr(room, "_kernel", lambda: kernel)
    found, found_state = backbone(x, state, lengths)
    assert len(calls) == len(backbone.layers)
    torch.testing.assert_close(found[1, :6], expected[1, :6], rtol=0, atol=1e-10)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-10)
    for ours, theirs in zip(found_state.layers, expected_state.layers, strict=True):
        torch.testing.assert_close(ours.ssm, theirs.ssm, rtol=0, atol=1e-10)


def test_a_policy_says_what_runs_it() -> None:
    policy = tiny_policy()
    assert policy.backbone.backend() == "torch"
    policy.backbone.compute = policy.backbone.compute.model_copy(update={"scan": "triton"})
    with pytest.raises(ConfigError, match="triton cannot run here"):
        policy.backbone.backend()
    with pytest.raises(ConfigError, match="triton cannot run here"):
        policy.index(tiny_features(policy))


def run_compiled(backbone: Backbone, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
    torch.compiler.reset()
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    hidden, state = compiled(x, backbone.initial_state(len(x)), lengths)
    return hidden, state


@pytest.mark.parametrize("lengths", [None, torch.tensor([13, 8])])
def test_the_plain_path_compiles_in_one_graph(lengths: Tensor | None) -> None:
    backbone, x = tiny_backbone(torch.float32), random_embeddings(2, 13).float()
    backbone.requires_grad_(True)
    expected, expected_state = backbone(x, backbone.initial_state(2), lengths)
    found, state = run_compiled(backbone, x, lengths)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(state.layers[-1].ssm, expected_state.layers[-1].ssm, rtol=0, atol=1e-5)
    weights = [p for n, p in backbone.named_parameters() if not n.startswith("embedding")]
    for ours, theirs in zip(
        torch.autograd.grad(found.sin().sum(), weights),
        torch.autograd.grad(expected.sin().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_plain_path_compiles_with_sixteen_bit_weights() -> None:
    backbone = tiny_backbone(torch.bfloat16)
    x = random_embeddings(2, 13).bfloat16()
    expected, _ = backbone(x, backbone.initial_state(2))
    found, _ = run_compiled(backbone, x, None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_sixteen_bit_weights_index_nearly_as_full_ones() -> None:
    """The same rounded weights in both, so what differs is the arithmetic alone."""
    low = tiny_policy().bfloat16()
    full = copy.deepcopy(low).float()
    features = tiny_features(full, frames=40)
    with torch.no_grad():
        found, expected = low.index(features.bfloat16(), segment=7), full.index(features.bfloat16().float(), segment=7)
    assert found.keys.dtype == torch.bfloat16
    assert (found.keys - expected.keys).norm() < 0.02 * expected.keys.norm()
    for ours, theirs in zip(found.state.layers, expected.state.layers, strict=True):
        assert ours.ssm.dtype == torch.float32
        assert (ours.ssm - theirs.ssm).norm() < 0.02 * theirs.ssm.norm()


def test_short_sequences_need_no_back_end() -> None:
    inputs, state = random_inputs(2, 1), random_state(2)
    y, _ = scan(*inputs, state, chunk=4, dtype=torch.float64, choice="triton")
    assert y.shape == (2, 1, 3, 4)


def test_what_is_constant_to_the_compiler_is_marked_as_it_marks_it() -> None:
    def known() -> int:
        return 1

    marks = vars(torch.compiler.assume_constant_result(known))  # type: ignore[no-untyped-call]
    assert marks
    assert marks.items() <= vars(room._obstacle_of).items()
