"""Training end to end on a few small videos: what must hold of a step, a run, and a run that was interrupted."""

import errno
import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refocus_video.config import ReferenceConfig, RunConfig, SamplingConfig, Stage, TrainConfig
from refocus_video.data.examples import read_examples
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.errors import CheckpointError, ConfigError, DataError, QuestionError, RefocusWarning, StoreError
from refocus_video.pipeline import lasting
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import PickScores, VideoIndex
from refocus_video.reference.base import ReferenceModel, ScoreRequest
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.train.features import FeatureStore
from refocus_video.train.rollout import Batch, Rollout, collect
from refocus_video.train.snapshot import list_snapshots, read_history
from refocus_video.train.tiny_reference import TinyReferenceConfig, new_reference
from refocus_video.train.trainer import Trainer
from refocus_video.types import ByteArray, Example, Question, Span
from tiny_policy import tiny_config, tiny_policy

FRAMES = 16  # candidates of a haystack video at 1 frame a second


def _config(**train: Any) -> RunConfig:
    values: dict[str, Any] = {
        "max_steps": 6,
        "videos_per_step": 3,
        "questions_per_video": 2,
        "num_generations": 4,
        "stages": (Stage(until=0.5, budgets=(2,), question_types={"one-hop": 1}), Stage(until=1.0, budgets=(2, 3))),
        "scale_rewards": "running",
        "entropy_target": (0.9, 0.3),
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "gate": 0.0,
        "save_steps": 2,
    }
    return RunConfig(
        sampling=SamplingConfig(fps=1.0, max_frames=FRAMES),
        policy=tiny_config(),
        reference=ReferenceConfig(answer_mode="words", reward="margin"),
        train=TrainConfig.model_validate(values | train),
    )


def _untrained(seed: int = 0) -> HuggingFaceReference:
    reference = new_reference(TinyReferenceConfig(seed=seed, width=32, layers=2))
    reference.answer_mode = "words"
    return reference


@pytest.fixture(scope="module")
def examples(haystack: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Questions about four videos of 16 candidates, and one about a video of only 5."""
    short = tmp_path_factory.mktemp("short") / "short.mp4"
    rng = np.random.default_rng(0)
    write_mp4(short, rng.integers(0, 256, (40, 96, 96, 3), dtype=np.uint8), fps=8)
    question = Question("Which shape is on the red card?", ("cross", "ring", "bars", "tee"))
    extra = Example("short", str(short), question, 1, (Span(0, 1),), "one-hop")
    return [*read_examples(haystack / "train.jsonl"), extra]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def _trainer(
    examples: Sequence[Example],
    features: Path,
    output: Path,
    config: RunConfig,
    reference: ReferenceModel | None = None,
    policy: FramePolicy | None = None,
) -> Trainer:
    policy = policy or tiny_policy()
    reference = reference or _untrained()
    store = FeatureStore(features, config, policy, reference)
    assert store.build(dict.fromkeys(e.video for e in examples)) == {}
    return Trainer(policy, reference, store, examples, config.train, config.reference, output)


# ------------------------------------------------------------------ resuming


class _Killed(Exception):  # noqa: N818
    """Stands for a power cut between two steps."""


def _numbers(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in numbers.items() if k != "seconds"} for numbers in history]


def _assert_same_state(one: Trainer, other: Trainer) -> None:
    weights = other.policy.state_dict()
    for name, value in one.policy.state_dict().items():
        assert torch.equal(value, weights[name]), name
    slots = other.optimizer.state_dict()["state"]
    for number, entries in one.optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            assert torch.equal(value, slots[number][name])
    assert _numbers(one.history) == _numbers(other.history)
    assert (one.entropy_coef, one.reward_spread, vars(one.monitor)) == (
        other.entropy_coef,
        other.reward_spread,
        vars(other.monitor),
    )


@pytest.mark.parametrize(
    "changes", [{}, {"num_iterations": 2, "scale_rewards": "group"}], ids=["running-scale", "two-iterations"]
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    examples: list[Example], features: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = _config(**changes)
    whole = _trainer(examples, features, tmp_path / "whole", config)
    whole.run()

    def cut(numbers: dict[str, Any], _: list[str]) -> None:
        if numbers["step"] == 5:
            raise _Killed

    first = _trainer(examples, features, tmp_path / "cut", config)
    with pytest.raises(_Killed):
        first.run(cut)
    other = tiny_policy()
    torch.manual_seed(77)  # what the new process happens to start from must not matter
    with torch.no_grad():
        for name, value in other.named_parameters():
            if not name.startswith("vision.tower"):
                value.normal_()
    second = _trainer(examples, features, tmp_path / "cut", config, policy=other)
    assert second.resume()
    assert second.next_step == 4
    second.run()
    _assert_same_state(second, whole)
    lines = [(tmp_path / n / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for n in ("whole", "cut")]
    assert _numbers([json.loads(x) for x in lines[0]]) == _numbers([json.loads(x) for x in lines[1]])
    assert [numbers["step"] for numbers in whole.history] == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_finishes_the_step_saves_and_goes_on_later(
    examples: list[Example], features: Path, tmp_path: Path
) -> None:
    config = _config(save_steps=100)
    before = signal.getsignal(signal.SIGINT)

    def interrupt(numbers: dict[str, Any], _: list[str]) -> None:
        if numbers["step"] == 3:
            os.kill(os.getpid(), signal.SIGINT)

    first = _trainer(examples, features, tmp_path / "cut", config)
    with pytest.raises(KeyboardInterrupt):
        first.run(interrupt)
    assert [p.name for p in list_snapshots(tmp_path / "cut")] == ["checkpoint-000003"]
    assert signal.getsignal(signal.SIGINT) is before
    second = _trainer(examples, features, tmp_path / "cut", config)
    assert second.resume()
    second.run()
    whole = _trainer(examples, features, tmp_path / "whole", config)
    whole.run()
    _assert_same_state(second, whole)


def test_a_run_keeps_its_newest_checkpoints_which_load_as_policies(
    examples: list[Example], features: Path, tmp_path: Path
) -> None:
    trainer = _trainer(examples, features, tmp_path, _config())
    trainer.run()
    kept = list_snapshots(tmp_path)
    assert [p.name for p in kept] == ["checkpoint-000004", "checkpoint-000006"]
    loaded = FramePolicy.from_pretrained(kept[-1])
    for name, value in trainer.policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(p.name for p in kept), "metrics.jsonl"]


def test_a_run_of_other_settings_is_not_resumed(examples: list[Example], features: Path, tmp_path: Path) -> None:
    assert not _trainer(examples, features, tmp_path, _config()).resume()
    _trainer(examples, features, tmp_path, _config(max_steps=1)).run()
    with pytest.raises(ConfigError, match=r"other settings \(temperature\)"):
        _trainer(examples, features, tmp_path, _config(max_steps=2, temperature=0.5)).resume()


def test_a_run_with_another_reward_is_not_resumed(examples: list[Example], features: Path, tmp_path: Path) -> None:
    _trainer(examples, features, tmp_path, _config(max_steps=1)).run()
    config = _config(max_steps=1).model_copy(update={"reference": ReferenceConfig(reward="accuracy")})
    with pytest.raises(ConfigError, match="reward"):
        _trainer(examples, features, tmp_path, config).resume()


def test_a_checkpoint_that_lost_a_file_is_named(examples: list[Example], features: Path, tmp_path: Path) -> None:
    _trainer(examples, features, tmp_path, _config(max_steps=1)).run()
    (tmp_path / "checkpoint-000001" / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-000001 is not a complete training checkpoint"):
        _trainer(examples, features, tmp_path, _config(max_steps=1)).resume()


def _empty_newest(output: Path) -> str:
    (output / "checkpoint-999999").mkdir()
    return "no complete.json"


def _cut(name: str) -> Callable[[Path], str]:
    def damage(output: Path) -> str:
        path = output / "checkpoint-000004" / name
        path.write_bytes(path.read_bytes()[:-20])
        return f"{name} is damaged"

    return damage


def _flip(name: str) -> Callable[[Path], str]:
    def damage(output: Path) -> str:
        path = output / "checkpoint-000004" / name
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        return f"{name} is damaged"

    return damage


def _other_state(output: Path) -> str:
    (output / "checkpoint-000004" / "trainer.json").write_text('{"step": "x"}')
    return "trainer.json is damaged"


def _other_marker(output: Path) -> str:
    (output / "checkpoint-000004" / "complete.json").write_text("[]")
    return "complete.json is damaged"


@pytest.fixture(scope="module")
def four_steps(examples: list[Example], features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps that saved two checkpoints. To be read only."""
    output = tmp_path_factory.mktemp("four")
    _trainer(examples, features, output, _config(max_steps=4, save_steps=3)).run()
    return output


@pytest.mark.parametrize(
    "damage",
    [
        _empty_newest,
        *(_cut(name) for name in ("optimizer.safetensors", "trainer.json", "model.safetensors", "metrics.jsonl")),
        *(_flip(name) for name in ("optimizer.safetensors", "model.safetensors")),
        _other_state,
        _other_marker,
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_newest_whole_one_taken(
    four_steps: Path, examples: list[Example], features: Path, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(four_steps, output)
    (output / ".checkpoint-left").mkdir()
    (output / "metrics.jsonl").write_text("torn {")
    said = damage(output)
    bad, good = ("checkpoint-999999", 4) if damage is _empty_newest else ("checkpoint-000004", 3)
    trainer = _trainer(examples, features, output, _config(max_steps=4, save_steps=3))
    with pytest.warns(RefocusWarning, match=rf"{bad} is not .*: {said}; going on from checkpoint-00000{good}$"):
        assert trainer.resume()
    assert trainer.next_step == good
    trainer.run()
    left = ["checkpoint-000003", "checkpoint-000004", "metrics.jsonl"]
    assert sorted(path.name for path in output.iterdir()) == left
    assert _numbers(read_history(output)) == _numbers(read_history(four_steps))
    for name in ("model.safetensors", "optimizer.safetensors"):
        there = [folder / "checkpoint-000004" / name for folder in (output, four_steps)]
        assert there[0].read_bytes() == there[1].read_bytes()


def test_a_checkpoint_is_there_until_its_successor_is_whole(
    four_steps: Path, examples: list[Example], features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    shutil.copytree(four_steps, output)
    trainer = _trainer(examples, features, output, _config(max_steps=4, save_steps=3))
    assert trainer.resume()
    whole = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name.startswith(".checkpoint-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(
            CheckpointError, match=r"cannot keep a checkpoint in .*No space left on device\); free some"
        ):
            trainer.save()
    assert not list(output.glob(".checkpoint-*"))
    again = _trainer(examples, features, output, _config(max_steps=4, save_steps=3))
    assert again.resume()
    assert again.next_step == 4
    again.save()
    assert [path.name for path in list_snapshots(output)] == ["checkpoint-000003", "checkpoint-000004"]


def test_more_steps_go_on_and_say_what_becomes_of_the_schedule(
    four_steps: Path, examples: list[Example], features: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(four_steps, output)
    trainer = _trainer(examples, features, output, _config(max_steps=5, save_steps=100))
    with pytest.warns(RefocusWarning, match=r"max_steps was 4 and is 5: from step 5 the learning rate"):
        assert trainer.resume()
    assert [numbers["step"] for numbers in trainer.run()] == [1, 2, 3, 4, 5]


def test_a_run_on_other_candidates_is_not_resumed(examples: list[Example], features: Path, tmp_path: Path) -> None:
    first = _trainer(examples, features, tmp_path, _config(max_steps=1))
    first.run_settings = lasting(_config(max_steps=1))
    first.run()
    other = _trainer(examples, features, tmp_path, _config(max_steps=1))
    other.run_settings = lasting(_config().model_copy(update={"sampling": SamplingConfig(fps=2.0)}))
    with pytest.raises(ConfigError, match=r"other settings \(.*sampling\.fps"):
        other.resume()


# ------------------------------------------------------------------ a step


def test_a_step_trains_everything_but_the_tower(examples: list[Example], features: Path, tmp_path: Path) -> None:
    trainer = _trainer(examples, features, tmp_path, _config(entropy_coef=0.05, warmup_steps=0))
    before = {name: value.clone() for name, value in trainer.policy.named_parameters()}
    numbers, _ = trainer.step()
    for name, value in trainer.policy.named_parameters():
        if name.startswith("vision.tower"):
            assert value.grad is None
            assert torch.equal(value, before[name])
        else:
            assert value.grad is not None, name
            assert not torch.equal(value, before[name]), name
    assert numbers["grad_norm"] > 0
    assert numbers["clip_fraction"] == 0  # one iteration: the ratio is 1


@pytest.mark.parametrize("size", [1, 2, 4])
def test_accumulated_gradients_are_those_of_one_graph(
    examples: list[Example], features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def first_step(size: int | None) -> tuple[Trainer, dict[str, Any], list[int]]:
        changes = {"videos_per_step": 5, "questions_per_video": 3, "num_iterations": 2, "max_grad_norm": 1e9}
        policy, indexed = tiny_policy(torch.float64), []
        run = policy.index

        def recording(features: Tensor, *args: Any) -> VideoIndex:
            indexed.append(len(features) if torch.is_grad_enabled() else 0)
            return run(features, *args)

        monkeypatch.setattr(policy, "index", recording)
        config = _config(**changes, per_device_train_batch_size=size)
        trainer = _trainer(examples, features, tmp_path / str(size), config, policy=policy)
        return trainer, trainer.step()[0], indexed

    whole, expected, together = first_step(None)
    parts, found, apart = first_step(size)
    assert together == [5, 5]  # the rollouts use the first of the two graphs
    assert max(apart) == size
    assert sum(apart) == 10
    assert len(apart) == 3 * -(-5 // size)
    for ours, theirs in zip(parts.policy.parameters(), whole.policy.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert _numbers([found])[0] == pytest.approx(_numbers([expected])[0], rel=1e-6)


def test_mixed_precision_changes_a_step_by_rounding_alone(
    examples: list[Example], features: Path, tmp_path: Path
) -> None:
    wide = _trainer(examples, features, tmp_path / "wide", _config())
    short = _trainer(examples, features, tmp_path / "short", _config(bf16=True))
    kinds: set[torch.dtype] = set()
    short.policy.key_head.register_forward_hook(lambda *call: kinds.add(call[-1].dtype))
    expected, found = wide.step()[0], short.step()[0]
    assert kinds == {torch.bfloat16}
    assert {weight.dtype for weight in short.policy.parameters()} == {torch.float32}
    assert found["entropy"] == pytest.approx(expected["entropy"], rel=0.02)
    assert found["entropy"] != expected["entropy"]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_sampler_and_the_loss_agree_on_the_log_probs(
    examples: list[Example], features: Path, tmp_path: Path, temperature: float
) -> None:
    trainer = _trainer(examples, features, tmp_path, _config(videos_per_step=5))
    stage = trainer.config.stages[0]
    batch = trainer.draw_batch(0, stage)
    assert sorted(len(video) for video in batch.videos) == [5, 16, 16, 16, 16]  # padding is in play
    index, asked = trainer.forward(batch)
    rollout = collect(
        trainer.policy,
        index,
        asked,
        trainer.reference,
        batch,
        budget=4,
        group_size=8,
        temperature=temperature,
        scoring=trainer.scoring,
        generator=torch.Generator().manual_seed(0),
    )
    again = trainer.policy.log_probs(index, asked, rollout.picks, temperature)
    torch.testing.assert_close(rollout.log_probs, again.log_probs.detach(), atol=1e-5, rtol=0)
    lengths = torch.tensor([len(video) for video in batch.videos])[batch.rows]
    assert (rollout.picks < lengths[:, None, None]).all()
    assert again.log_probs.std() > 0.1  # far enough from uniform to tell


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_step_scores_the_picks_it_sampled(
    examples: list[Example],
    features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    temperature: float,
) -> None:
    changes: dict[str, Any] = {"videos_per_step": 5, "num_iterations": 2, "temperature": temperature}
    trainer = _trainer(examples, features, tmp_path, _config(**changes))
    sampled: list[Rollout] = []
    scored: list[PickScores] = []
    log_probs = trainer.policy.log_probs

    def recording_collect(*args: Any, **kwargs: Any) -> Rollout:
        sampled.append(collect(*args, **kwargs))
        return sampled[-1]

    def recording_log_probs(*args: Any, **kwargs: Any) -> PickScores:
        scored.append(log_probs(*args, **kwargs))
        return scored[-1]

    monkeypatch.setattr("refocus_video.train.trainer.collect", recording_collect)
    monkeypatch.setattr(trainer.policy, "log_probs", recording_log_probs)
    trainer.step()
    assert (len(sampled), len(scored)) == (1, 2)
    torch.testing.assert_close(sampled[0].log_probs, scored[0].log_probs.detach(), atol=1e-5, rtol=0)
    assert not torch.equal(scored[0].log_probs, scored[1].log_probs)  # the second pass is of the updated policy


def test_the_reference_sees_the_right_video_question_and_subset(
    examples: list[Example], features: Path, tmp_path: Path
) -> None:
    trainer = _trainer(examples, features, tmp_path, _config(videos_per_step=4))
    batch = trainer.draw_batch(4, trainer.config.stages[1])
    assert len(batch.examples) > len(batch.videos)
    for example, row in zip(batch.examples, batch.rows.tolist(), strict=True):
        assert batch.videos[row] is trainer.store[example.video]
    seen: list[ScoreRequest] = []

    class Recording(Fake):
        def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
            seen.extend(requests)
            return super().score(requests)

    trainer.reference = Recording()
    index, asked = trainer.forward(batch)
    generator = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"budget": 3, "group_size": 2, "temperature": 1.0, "scoring": trainer.scoring}
    rollout = collect(trainer.policy, index, asked, trainer.reference, batch, generator=generator, **options)
    for request, example, picks in zip(seen, batch.examples, rollout.picks, strict=True):
        assert request.question == example.question
        assert isinstance(request.features, Tensor)
        assert torch.equal(request.features, trainer.store[example.video].reference)
        assert torch.equal(request.times, trainer.store[example.video].times)
        assert torch.equal(request.subsets, picks.sort(-1).values)


def test_options_are_shown_in_a_new_order_each_time(examples: list[Example], features: Path, tmp_path: Path) -> None:
    known = {e.id: e for e in examples}
    for rotation in ("shuffle", "none", "cycle"):
        config = _config(questions_per_video=6)
        scoring = config.reference.model_copy(update={"rotation": rotation})
        trainer = _trainer(examples, features, tmp_path, config.model_copy(update={"reference": scoring}))
        moved = 0
        for step in range(3):
            for example in trainer.draw_batch(step, trainer.config.stages[1]).examples:
                own = known[example.id]
                assert example.question.options[example.answer] == own.question.options[own.answer]
                moved += example.question.options != own.question.options
        assert moved > 2 if rotation == "shuffle" else moved == 0


def test_a_stage_practises_only_its_question_types(examples: list[Example], features: Path, tmp_path: Path) -> None:
    trainer = _trainer(examples, features, tmp_path, _config())
    kinds = [{e.question_type for e in trainer.draw_batch(s, trainer.config.stages[s > 2]).examples} for s in range(6)]
    assert set().union(*kinds[:3]) == {"one-hop"}
    assert set().union(*kinds[3:]) == {"one-hop", "two-hop"}


def test_every_number_of_a_step_is_finite_and_in_range(examples: list[Example], features: Path, tmp_path: Path) -> None:
    trainer = _trainer(examples, features, tmp_path, _config(max_steps=4))
    for numbers in trainer.run():
        assert all(math.isfinite(value) for value in numbers.values())
        assert 0 < numbers["entropy"] <= math.log(FRAMES)
        assert -1 <= numbers["reward"] <= 1
        for name in ("accuracy", "probability", "distinct_subsets", "frac_reward_zero_std", "recall/one-hop"):
            assert 0 <= numbers[name] <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"stages": (Stage(until=1, budgets=(2,), question_types={"three-hop": 1}),)}, "three-hop")],
)
def test_a_stage_without_questions_is_refused(
    examples: list[Example], features: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        _trainer(examples, features, tmp_path, _config(**changes))
    with pytest.raises(DataError, match="no training examples"):
        _trainer([], features, tmp_path, _config())


# ------------------------------------------------------------------ learning


@dataclass
class Fake:
    """A reference model that knows nothing but positions: the right option scores ``pay`` when the wanted one is shown.

    ``wanted`` is by question text; options are "right" and "wrong".
    """

    wanted: dict[str, int] = field(default_factory=dict)
    pay: float = 2.0
    image_size: tuple[int, int] = (32, 32)

    def encode(self, frames: ByteArray) -> Tensor:
        return torch.from_numpy(frames).float().mean((1, 2)) / 255

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        results = []
        for request in requests:
            shown = (request.subsets == self.wanted.get(request.question.text, 0)).any(-1).float() * self.pay
            right = [option == "right" for option in request.question.options]
            results.append(torch.stack([shown if r else torch.zeros_like(shown) for r in right], -1))
        return results


WANTED = {"what colour is the card": 3, "which card is at the end": 11}


def _bandit(haystack: Path, features: Path, output: Path, pay: float, **changes: Any) -> Trainer:
    video = str(haystack / "train" / "000000.mp4")
    examples = [
        Example(text, video, Question(text, ("right", "wrong")), 0, (Span(16 / 15 * at - 0.3, 16 / 15 * at + 0.3),))
        for text, at in WANTED.items()
    ]
    settings: dict[str, Any] = {
        "max_steps": 60,
        "videos_per_step": 1,
        "num_generations": 48,
        "stages": (Stage(until=1, budgets=(1,)),),
        "learning_rate": 3e-3,
        "entropy_coef": 0.1,
        "entropy_target": None,
        "gate": 1e-3,
        "save_steps": 1000,
    }
    config = _config(**settings | changes)
    policy = tiny_policy(options_in_prompt=False)
    policy.reset_heads()
    trainer = _trainer(examples, features, output, config, Fake(WANTED, pay), policy)
    times = trainer.store[video].times
    assert [int(i) for e in examples for i in np.flatnonzero([e.evidence[0].contains(float(t)) for t in times])] == [
        3,
        11,
    ]
    return trainer


@torch.no_grad()
def _first_pick(trainer: Trainer) -> Tensor:
    """Probability of every frame to be picked first, for each question: (2, F)."""
    examples = next(iter(trainer.groups.values()))
    batch = Batch(tuple(examples), (trainer.store[examples[0].video],), torch.tensor([0, 0]))
    index, asked = trainer.forward(batch)
    every = torch.arange(FRAMES)[None, :, None].expand(2, FRAMES, 1)
    return trainer.policy.log_probs(index, asked, every).log_probs[..., 0].exp()


@pytest.mark.parametrize("scale", ["group", "running", "none"])
def test_training_raises_the_probability_of_the_frame_that_pays(haystack: Path, tmp_path: Path, scale: str) -> None:
    trainer = _bandit(haystack, tmp_path / "features", tmp_path / "run", pay=2.0, scale_rewards=scale)
    before = _first_pick(trainer)
    assert (before - 1 / FRAMES).abs().max() < 0.03  # new heads pick almost uniformly
    told: list[str] = []
    trainer.run(lambda _, warnings: told.extend(warnings))
    after = _first_pick(trainer)
    for row, at in enumerate(WANTED.values()):
        assert after[row, at] > 3 * before[row, at]
    rewards = [numbers["reward"] for numbers in trainer.history]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.2
    assert not any("avoiding evidence" in warning for warning in told)


def test_a_reference_that_pays_for_showing_nothing_is_told_on(haystack: Path, tmp_path: Path) -> None:
    trainer = _bandit(haystack, tmp_path / "features", tmp_path / "run", pay=-2.0)
    before = _first_pick(trainer)
    told: list[str] = []
    trainer.run(lambda _, warnings: told.extend(warnings))
    after = _first_pick(trainer)
    for row, at in enumerate(WANTED.values()):
        assert after[row, at] < before[row, at] / 3
    assert sum("avoiding evidence" in warning for warning in told) == 1


def test_without_any_reward_signal_only_entropy_moves_the_policy(haystack: Path, tmp_path: Path) -> None:
    trainer = _bandit(haystack, tmp_path / "f", tmp_path / "run", pay=0.0, entropy_coef=0.0, weight_decay=0.0)
    before = {name: value.clone() for name, value in trainer.policy.named_parameters()}
    numbers, _ = trainer.step()
    assert numbers["frac_reward_zero_std"] == 1
    assert numbers["grad_norm"] == 0
    for name, value in trainer.policy.named_parameters():
        assert torch.equal(value, before[name]), name


def test_a_loss_that_is_not_a_number_ends_the_run(
    haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _bandit(haystack, tmp_path / "features", tmp_path / "run", pay=2.0)
    monkeypatch.setattr(trainer, "advantage_scale", lambda *_: math.nan)
    before = {name: value.clone() for name, value in trainer.policy.named_parameters()}
    with pytest.raises(ConfigError, match="the loss became nan at step 1; lower learning_rate"):
        trainer.run()
    for name, value in trainer.policy.named_parameters():
        assert torch.equal(value, before[name]), name
    assert list_snapshots(tmp_path / "run") == []


def test_a_run_that_fails_gives_ctrl_c_back(haystack: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    trainer = _bandit(haystack, tmp_path / "features", tmp_path / "run", pay=math.nan)
    try:
        with pytest.raises(QuestionError, match=r"no number \(NaN\) as a score"):
            trainer.run()
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------ features on disk


def test_features_are_computed_once_and_named_by_all_they_depend_on(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, policy, reference = _config(), tiny_policy(), _untrained()
    video = examples[0].video
    store = FeatureStore(tmp_path, config, policy, reference)
    assert store.build([video]) == {}
    seen, shown = store.paths(video)
    changed_at = [path.stat().st_mtime_ns for path in (seen, shown)]
    again = FeatureStore(tmp_path, config, policy, reference)
    with monkeypatch.context() as patched:
        patched.setattr("refocus_video.train.views.load_candidates", None)  # would fail if it were needed
        assert again.build([video]) == {}
        assert again.paths(video) == (seen, shown)
        assert [path.stat().st_mtime_ns for path in (seen, shown)] == changed_at

    other_sampling = config.model_copy(update={"sampling": SamplingConfig(fps=2.0)})
    other_tower = tiny_policy()
    with torch.no_grad():
        next(other_tower.vision.tower.parameters()).add_(1.0)
    others = [
        FeatureStore(tmp_path, other_sampling, policy, reference).paths(video),
        FeatureStore(tmp_path, config, other_tower, reference).paths(video),
        FeatureStore(tmp_path, config, tiny_policy(pool_stride=1), reference).paths(video),
        FeatureStore(tmp_path, config, policy, _untrained(seed=1)).paths(video),  # of the same name
        store.paths(examples[-1].video),
    ]
    assert len({path for path, _ in others} | {seen}) == 5  # another reference model leaves the policy's view as it is
    assert len({path for _, path in others} | {shown}) == 4


def test_damaged_features_are_named_and_made_again(examples: list[Example], tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, _config(), tiny_policy(), _untrained())
    video = examples[0].video
    assert store.build([video]) == {}
    path = store.paths(video)[0]
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-7] ^= 1
    for content in (whole[:-100], bytes(flipped), b""):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=rf"{path} is damaged .*run again: it is made again"):
            store.views[0].read(video)
        with pytest.warns(RefocusWarning, match=rf"{path} is damaged .*; it is made again"):
            assert store.build([video]) == {}
        assert path.read_bytes() == whole
    assert sorted(tmp_path.iterdir()) == sorted(store.paths(video))


def test_another_backbone_finds_the_features_of_the_first(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, reference, videos = _config(), _untrained(), [examples[0].video]
    store = FeatureStore(tmp_path, config, tiny_policy(), reference)
    assert store.build(videos) == {}
    monkeypatch.setattr("refocus_video.train.views.load_candidates", None)  # would fail if it were needed
    trained = tiny_policy()
    trained.restart()
    for other in (tiny_policy(d_model=32, n_layer=1, options_in_prompt=False), trained):
        reused = FeatureStore(tmp_path, config, other, reference)
        assert reused.build(videos) == {}
        assert torch.equal(reused[videos[0]].policy, store[videos[0]].policy)


def test_features_are_those_of_the_models(examples: list[Example], tmp_path: Path) -> None:
    from refocus_video.video.candidates import load_candidates

    config, policy, reference = _config(), tiny_policy(), _untrained()
    store = FeatureStore(tmp_path, config, policy, reference)
    store.build([examples[0].video])
    candidates = load_candidates(examples[0].video, (32, 32), config.sampling)
    kept = store[examples[0].video]
    assert len(kept) == len(candidates) == FRAMES
    assert kept.times.tolist() == candidates.times.tolist()
    torch.testing.assert_close(kept.policy.float(), policy.encode(candidates.frames), atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(kept.reference.float(), reference.encode(candidates.frames), atol=5e-3, rtol=5e-3)


def test_a_video_that_cannot_be_read_is_listed_with_its_reason(examples: list[Example], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no video")
    store = FeatureStore(tmp_path / "features", _config(), tiny_policy(), _untrained())
    missing = str(tmp_path / "missing.mp4")
    failures = store.build([str(broken), examples[0].video, missing])
    assert list(failures) == [str(broken), missing]
    assert "broken.mp4" in failures[str(broken)]
    assert "no video file" in failures[missing]
    assert len(store[examples[0].video]) == FRAMES
    assert len(list((tmp_path / "features").iterdir())) == 2  # of the good one: the policy's and the reference's


def test_every_logged_number_is_explained(examples: list[Example], features: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    history = _trainer(examples, features, tmp_path, _config(max_steps=1)).run()
    for name in history[0]:
        documented = re.sub("/.*", "/TYPE", name)
        assert f"`{documented}`" in page, f"{name} is not explained in docs/metrics.md"
