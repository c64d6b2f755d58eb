"""Devices: which one is taken, and that no tensor is forgotten on the way to it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from refocus_video.config import ReferenceConfig, RunConfig, SamplingConfig, Stage, TrainConfig
from refocus_video.data.examples import read_examples
from refocus_video.device import default_dtype, full_precision, product_dtype, resolve
from refocus_video.errors import ConfigError
from refocus_video.policy.index import load_index, save_index
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.ssd import ssd_scan
from refocus_video.selectors.learned import FrameSelector
from refocus_video.train.features import FeatureStore
from refocus_video.train.tiny_reference import TinyReferenceConfig, new_reference
from refocus_video.train.trainer import Trainer
from second_device import ELSEWHERE, Far, second_device, to_second_device
from tiny_policy import QUESTIONS, tiny_config, tiny_features, tiny_policy

ROWS = torch.tensor([0, 1, 0, 1])

# ------------------------------------------------------------------ which device


def _machine(monkeypatch: pytest.MonkeyPatch, gpus: int, mac: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mac)


@pytest.mark.parametrize(
    ("gpus", "mac", "asked", "found"),
    [
        (2, False, "auto", "cuda"),
        (0, True, "auto", "mps"),
        (0, False, "auto", "cpu"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
    ],
)
def test_the_best_device_is_taken_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, gpus: int, mac: bool, asked: str, found: str
) -> None:
    _machine(monkeypatch, gpus, mac)
    assert resolve(asked) == torch.device(found)


@pytest.mark.parametrize(
    ("gpus", "mac", "asked", "said"),
    [
        (0, False, "cuda", r"asked for device 'cuda', but torch .* finds only cpu here; choose"),
        (0, True, "cuda", "finds only mps, cpu here"),
        (1, False, "cuda:1", "finds only cuda:0, cpu here"),
        (1, False, "mps", "finds only cuda:0, cpu here"),
        (1, False, "meta", "finds only cuda:0, cpu here"),
        (1, False, "gpu", "'gpu' is no device; choose auto, cuda"),
    ],
)
def test_a_device_that_is_not_there_is_never_replaced(
    monkeypatch: pytest.MonkeyPatch, gpus: int, mac: bool, asked: str, said: str
) -> None:
    _machine(monkeypatch, gpus, mac)
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(asked)
    assert "\n" not in str(caught.value)


def test_weights_stay_short_only_where_they_are_stored_so_and_a_gpu_is_at_hand() -> None:
    short, wide, half = torch.bfloat16, torch.float32, torch.float16
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    found = [default_dtype(device, stored) for device in (gpu, cpu) for stored in (short, wide, half)]
    assert found == [short, wide, wide, wide, wide, wide]


def test_a_short_checkpoint_is_widened_on_a_processor_unless_it_is_asked_for(tmp_path: Path) -> None:
    tiny_policy().to(torch.bfloat16).save_pretrained(tmp_path)
    for asked, found in (("auto", torch.float32), (torch.bfloat16, torch.bfloat16)):
        policy = FrameSelector.from_pretrained(tmp_path, device="cpu", dtype=cast(Any, asked)).policy
        assert {weight.dtype for weight in policy.parameters()} == {found}


# ------------------------------------------------------------------ autocast


def test_autocast_does_not_reach_the_plain_scan() -> None:
    generator = torch.Generator().manual_seed(0)
    x, log_decay, b, c, state = (
        torch.randn(shape, generator=generator)
        for shape in ((2, 9, 3, 4), (2, 9, 3), (2, 9, 5), (2, 9, 5), (2, 3, 4, 5))
    )
    expected = ssd_scan(x, -log_decay.abs(), b, c, state, chunk=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(b) == torch.bfloat16
        assert (c @ b.mT).dtype == torch.bfloat16
        with full_precision(b.device):
            assert product_dtype(b) == torch.float32
        found = ssd_scan(x, -log_decay.abs(), b, c, state, chunk=4)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_logits_are_not_shortened_by_autocast() -> None:
    policy, features = tiny_policy(), tiny_features(tiny_policy())
    index = policy.index(features)
    asked = policy.ask(index, QUESTIONS, ROWS)
    picks = torch.tensor([[[2, 0]]]).expand(4, 1, 2)
    expected = policy.log_probs(index, asked, picks)
    with torch.autocast("cpu", torch.bfloat16):
        short = policy.index(features)
        scores = policy.log_probs(short, policy.ask(short, QUESTIONS, ROWS), picks)
    assert scores.log_probs.dtype == torch.float32
    assert short.keys.dtype == torch.bfloat16
    assert torch.allclose(scores.log_probs, expected.log_probs, atol=0.1)


# ------------------------------------------------------------------ nothing is forgotten on the way


def _near(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, Far), "stayed on the CPU"
    return tensor.near


@pytest.mark.parametrize("float64", [True, False], ids=["like a GPU", "like a Mac"])
@pytest.mark.parametrize("changes", [{}, {"frame_generation_method": "block"}], ids=["fed back", "block"])
def test_a_policy_elsewhere_picks_and_scores_the_same(float64: bool, changes: dict[str, Any], tmp_path: Path) -> None:
    policy = tiny_policy(**changes)
    features = tiny_features(policy, frames=11)
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    lengths, times = torch.tensor([11, 9]), torch.arange(22, dtype=torch.float64).view(2, 11) / 4

    def everything() -> Iterator[Tensor]:
        yield policy.encode(frames)
        index = policy.index(features, lengths, segment=4)
        yield index.keys
        asked = policy.ask(index, QUESTIONS, ROWS)
        generators = [torch.Generator().manual_seed(row) for row in range(4)]
        forced = torch.tensor([1], device=policy.device).expand(4, 2, -1)
        for options in (
            {"greedy": True},
            {"generator": generators},
            {"generator": torch.Generator().manual_seed(0), "times": times, "min_gap": 0.6},
            {"greedy": True, "forced": forced, "keep_distributions": True},
        ):
            picks = pick_frames(policy, index, asked, 3, 2, **cast(Any, options)).picks
            yield picks
        scores = policy.log_probs(index, asked, picks)
        (scores.log_probs.sum() + scores.entropy.sum()).backward()  # type: ignore[no-untyped-call]
        yield scores.log_probs
        yield cast(Tensor, policy.backbone.embedding.weight.grad)
        with torch.no_grad():
            one = policy.index(features[:1])
        path = tmp_path / f"{policy.device}.safetensors"
        save_index(path, one, {}, {})
        yield load_index(path, policy).index.keys

    expected = list(everything())
    policy.zero_grad()
    to_second_device(policy)
    assert policy.device == ELSEWHERE
    with second_device(float64=float64):
        found = list(everything())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(_near(ours), theirs)


@pytest.mark.parametrize("float64", [True, False], ids=["like a GPU", "like a Mac"])
def test_a_selector_elsewhere_gives_the_same_selections(haystack: Path, float64: bool) -> None:
    video = read_examples(haystack / "train.jsonl")[0].video
    selector = FrameSelector(tiny_policy(), sampling=SamplingConfig(fps=1.0, max_frames=12))

    def everything() -> list[Any]:
        opened = selector.open(video)
        options: list[dict[str, Any]] = [
            {},
            {"temperature": 1.0, "seed": 3, "min_gap": 1.5},
            {"strategy": "marginal", "samples": 4, "forced": (2,), "min_gap": 1.5},
            {"strategy": "best-of", "samples": 3},
        ]
        picked = [opened.select_many(["what is shown", "which card is red"], 3, **each) for each in options]
        told = opened.explain("what is shown", 3, temperature=1.0)
        return [[selection.frame_indices.tolist() for selection in each] for each in picked] + [
            told.selection.frame_indices.tolist()
        ]

    expected = everything()
    to_second_device(selector.policy)
    with second_device(float64=float64):
        assert everything() == expected


def test_a_training_elsewhere_takes_the_same_steps(
    haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = read_examples(haystack / "train.jsonl")
    config = RunConfig(
        sampling=SamplingConfig(fps=1.0, max_frames=12),
        policy=tiny_config(),
        reference=ReferenceConfig(answer_mode="words"),
        train=TrainConfig(
            max_steps=2,
            videos_per_step=3,
            questions_per_video=2,
            num_generations=3,
            num_iterations=2,
            stages=(Stage(until=1.0, budgets=(2,)),),
            scale_rewards="running",
            entropy_target=(0.9, 0.3),
            gate=0.0,
            per_device_train_batch_size=2,
        ),
    )
    make = torch.Generator
    # There is no source of randomness of such a device: training draws on the CPU here.
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": make("cpu"))

    def history(name: str, elsewhere: bool) -> list[dict[str, Any]]:
        policy, reference = tiny_policy(), new_reference(TinyReferenceConfig(width=32, layers=2))
        reference.answer_mode = "words"
        if elsewhere:
            to_second_device(policy)
            to_second_device(reference.model)
        accelerator = SimpleNamespace(
            device=policy.device,
            num_processes=1,
            process_index=0,
            is_main_process=True,
            reduce=lambda tensor, reduction: tensor,
            backward=lambda loss: loss.backward(),
        )
        store = FeatureStore(tmp_path / name, config, policy, reference)
        assert store.build(dict.fromkeys(example.video for example in examples)) == {}
        trainer = Trainer(
            policy,
            reference,
            store,
            examples,
            config.train,
            config.reference,
            tmp_path / name,
            cast(Accelerator, accelerator),
        )
        return trainer.run()

    expected = history("here", elsewhere=False)
    with second_device():
        found = history("elsewhere", elsewhere=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert {k: v for k, v in ours.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in theirs.items() if k != "seconds"}, rel=1e-4, abs=1e-6
        )


def test_the_second_device_notices_a_forgotten_tensor() -> None:
    policy = tiny_policy()
    to_second_device(policy)
    with second_device(float64=False):
        with pytest.raises(RuntimeError, match=r"add.*\(16,\) is on the CPU"):
            _ = policy.start_of_frame + torch.zeros(16)
        with pytest.raises(TypeError, match="float64"):
            policy.start_of_frame.double()
        assert isinstance(torch.tensor([1.0], device=ELSEWHERE), Far)
        assert not isinstance(policy.start_of_frame.cpu(), Far)
