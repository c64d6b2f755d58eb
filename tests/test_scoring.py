"""From subsets to rewards: what the reference model is asked, whatever the reward, the rotation and the number of models."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from chat_server import completion, serving
from refocus_video.config import ReferenceConfig, RunConfig
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.errors import ConfigError, QuestionError, ReferenceModelError, ServiceError
from refocus_video.pipeline import train_policy
from refocus_video.reference.base import ReferenceModel, ScoreRequest
from refocus_video.reference.endpoint.model import EndpointReference
from refocus_video.reference.ensemble import EnsembleReference, pack, unpack
from refocus_video.reference.letters import rotated
from refocus_video.reference.margin import likelihood_reward, margin_reward, probability_reward
from refocus_video.reference.rewards import combine, load_reward
from refocus_video.scoring import Judgement, Trial, judge, judge_apart
from refocus_video.train.features import FeatureStore
from refocus_video.train.setup import load_reference
from refocus_video.train.tiny_reference import TinyReferenceConfig, new_reference
from refocus_video.types import ByteArray, Example, Question
from tiny_policy import tiny_config, tiny_policy

OPTIONS = ("ring", "cross", "tee", "bars")
LETTERED = Example("lettered", "v.mp4", Question("Which?", OPTIONS), 2)
OPEN = Example("open", "v.mp4", Question("What is shown?"), 0, accepted=("a ring", "ring"))
SUBSETS = torch.tensor([[0, 1], [2, 5], [1, 7], [3, 4], [0, 7], [6, 7]])


@dataclass
class Fake:
    """Scores by a rule of (positions, text of the answer, its place among the answers)."""

    rule: Callable[[list[int], str, int], float]
    image_size: tuple[int, int] = (8, 8)
    seen: list[ScoreRequest] = field(default_factory=list)

    def encode(self, frames: ByteArray) -> Tensor:
        assert frames.shape[1:3] == self.image_size
        return torch.from_numpy(frames).float().mean((1, 2))

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        self.seen.extend(requests)
        return [
            torch.tensor(
                [
                    [self.rule(subset, text, i) for i, text in enumerate(request.texts or request.question.options)]
                    for subset in request.subsets.tolist()
                ]
            )
            for request in requests
        ]


def _noise(subset: list[int], text: str, place: int) -> float:
    """Reproducible, and without anything to do with letters."""
    return float(np.random.default_rng([*subset, len(text), ord(text[0])]).normal())


def _trial(example: Example, subsets: Tensor = SUBSETS) -> Trial:
    return Trial(torch.zeros(8, 3), torch.arange(8) / 4, example, subsets)


def _judge(model: ReferenceModel, example: Example, **settings: Any) -> Judgement:
    (judged,) = judge(model, [_trial(example)], ReferenceConfig.model_validate({"rotation": "none"} | settings))
    return judged


def _table(rule: Callable[[list[int], str, int], float], texts: Sequence[str], subsets: Tensor = SUBSETS) -> Tensor:
    return torch.tensor([[rule(subset, text, i) for i, text in enumerate(texts)] for subset in subsets.tolist()])


# ------------------------------------------------------------------ rewards by name


@pytest.mark.parametrize(("name", "function"), [("margin", margin_reward), ("probability", probability_reward)])
def test_a_reward_is_that_of_the_scores(name: str, function: Callable[[Tensor, int], Tensor]) -> None:
    judged = _judge(Fake(_noise), LETTERED, reward=name)
    table = _table(_noise, OPTIONS)
    torch.testing.assert_close(judged.rewards, function(table, 2))
    torch.testing.assert_close(torch.tanh(judged.margins / 2), margin_reward(table, 2))
    torch.testing.assert_close(judged.probabilities, probability_reward(table, 2))
    assert judged.correct.tolist() == [float(row.argmax() == 2) for row in table]


def _own(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> None:
    module = ModuleType("my_rewards")
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, "my_rewards", module)
    load_reward.cache_clear()


def test_a_function_of_the_users_is_found_by_its_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(scores: Tensor, answer: int) -> Tensor:
        return scores[:, answer] * 10

    def compared(scores: Tensor, answer: int, control: Tensor) -> Tensor:
        return scores[:, answer] - control[:, answer].mean()

    _own(monkeypatch, plain=plain, compared=compared)
    table, control = _table(_noise, OPTIONS), _table(_noise, OPTIONS, torch.tensor([[2, 6]]))
    torch.testing.assert_close(_judge(Fake(_noise), LETTERED, reward="my_rewards:plain").rewards, table[:, 2] * 10)
    model = Fake(_noise)
    judged = _judge(model, LETTERED, reward="my_rewards:compared", control=["uniform"])
    torch.testing.assert_close(judged.rewards, table[:, 2] - control[0, 2])
    assert [tuple(request.subsets.shape) for request in model.seen] == [(6, 2), (1, 2)]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda scores, answer: scores, r"one finite number for each of 6 subsets, found shape \(6, 4\)"),
        (lambda scores, answer: scores[:, 0] / 0, "one finite number"),
        (lambda scores, answer: 1.0, "found float"),
        (lambda scores: scores[:, 0], r"must be a function \(scores, answer\)"),
        (3, r"must be a function \(scores, answer\)"),
    ],
)
def test_what_is_no_reward_is_one_line(function: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _own(monkeypatch, mine=function)
    with pytest.raises(ConfigError, match=said) as error:
        _judge(Fake(_noise), LETTERED, reward="my_rewards:mine")
    assert "my_rewards:mine" in str(error.value)


def test_an_unknown_reward_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    for name in ("reward", "open_reward"):
        with pytest.raises(ConfigError, match="no rewards called 'luck'; known: margin, probability, accuracy, likel"):
            load_reference(ReferenceConfig.model_validate({"model": str(tmp_path), name: "luck"}))


# ------------------------------------------------------------------ rotation


def _biased(subset: list[int], text: str, place: int) -> float:
    """A model that likes the first letter whatever stands there."""
    return _noise(subset, text, place) + 3.0 * (place == 0)


def test_all_rotations_together_take_the_letters_bias_away() -> None:
    averaged = _judge(Fake(_biased), LETTERED, rotation="average")
    unbiased = _judge(Fake(_noise), LETTERED)
    torch.testing.assert_close(averaged.margins, unbiased.margins)
    assert not torch.allclose(_judge(Fake(_biased), LETTERED).margins, unbiased.margins)


def test_a_cycle_gives_each_subset_of_a_group_the_next_rotation() -> None:
    model = Fake(_biased)
    judged = _judge(model, LETTERED, rotation="cycle")
    expected = []
    for i, subset in enumerate(SUBSETS.tolist()):
        shown = OPTIONS[i % 4 :] + OPTIONS[: i % 4]
        table = torch.tensor([[_biased(subset, text, place) for place, text in enumerate(shown)]])
        expected.append(margin_reward(table, shown.index("tee")))
    torch.testing.assert_close(judged.rewards, torch.cat(expected))
    assert sum(len(request.subsets) for request in model.seen) == len(SUBSETS)
    torch.testing.assert_close(
        _judge(Fake(_noise), LETTERED, rotation="cycle").rewards, _judge(Fake(_noise), LETTERED).rewards
    )


def test_a_cycle_longer_than_the_group_and_a_question_without_options_are_no_trouble() -> None:
    config = ReferenceConfig(rotation="cycle")
    short, without = judge(Fake(_noise), [_trial(LETTERED, SUBSETS[:2]), _trial(OPEN)], config)
    assert (short.rewards.shape, without.rewards.shape) == ((2,), (6,))
    assert rotated(LETTERED.question, 1).options == ("cross", "tee", "bars", "ring")
    assert rotated(OPEN.question, 3) == OPEN.question


# ------------------------------------------------------------------ questions without options


def _tells(subset: list[int], text: str, place: int) -> float:
    """Mean log-probability: better with frame 5, hardly better with any frame than with none."""
    return -2.0 + (5 in subset) + 0.1 * bool(subset) - 0.5 * (text == "a ring")


def test_an_open_question_is_paid_for_what_the_frames_add_to_control_frames() -> None:
    model = Fake(_tells)
    judged = _judge(model, OPEN)
    scores, control = _table(_tells, ["ring"]), torch.tensor([[-1.9], [-2.0]])
    torch.testing.assert_close(judged.rewards, likelihood_reward(scores, 0, control))
    assert judged.rewards.argmax() == 1
    assert judged.correct.tolist() == [0, 1, 0, 0, 0, 0]
    torch.testing.assert_close(judged.margins, scores[:, 0] + 1.9)
    torch.testing.assert_close(judged.probabilities, scores[:, 0].exp())
    assert [request.subsets.tolist() for request in model.seen[1:]] == [[[2, 6]], [[]]]
    assert {request.texts for request in model.seen} == {("a ring", "ring")}


def test_which_control_frames_is_a_setting() -> None:
    assert _judge(Fake(_tells), OPEN, control=["none"]).correct.tolist() == [1.0] * 6
    model = Fake(_tells)
    _judge(model, LETTERED, reward="likelihood", control=["none"])
    assert [tuple(request.subsets.shape) for request in model.seen] == [(6, 2), (1, 0)]


def test_questions_of_both_kinds_are_judged_in_one_call() -> None:
    model = Fake(_noise)
    trials = [_trial(OPEN), _trial(LETTERED), _trial(OPEN, SUBSETS[:3])]
    together = judge(model, trials, ReferenceConfig(rotation="average"))
    for trial, one in zip(trials, together, strict=True):
        (alone,) = judge(Fake(_noise), [trial], ReferenceConfig(rotation="average"))
        assert torch.equal(one.rewards, alone.rewards)


# ------------------------------------------------------------------ several reference models


def test_packed_features_come_back_as_they_were() -> None:
    parts = [
        torch.randn(5, 3, 7).half(),
        torch.randint(0, 256, (5, 13), dtype=torch.uint8),
        torch.randn(5, 2, dtype=torch.float64),
        torch.randn(5),
        torch.randn(5, 3, 2).bfloat16(),
    ]
    for part, back in zip(parts, unpack(pack(parts)), strict=True):
        assert part.dtype == back.dtype
        assert torch.equal(part, back)
    assert torch.equal(unpack(pack(parts)[2:4])[0], parts[0][2:4])


def test_every_member_sees_its_own_features(tmp_path: Path) -> None:
    tiny = new_reference(TinyReferenceConfig(width=32, layers=2))
    other = new_reference(TinyReferenceConfig(seed=1, width=32, layers=2))
    tiny.answer_mode = other.answer_mode = "words"
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    question = Question("Which shape is on the red card?", ("cross", "ring"))
    with serving(lambda _: completion([("A", -1.0), ("B", -2.0)])) as server:
        values = {"url": server.url, "image_size": (40, 64), "cache": str(tmp_path), "image_format": "png"}
        remote = EndpointReference("m", ReferenceConfig.model_validate({"endpoint": values}).endpoint)  # type: ignore[arg-type]
        ensemble = EnsembleReference([tiny, remote, other])
        assert ensemble.image_size == (40, 64)
        features = ensemble.encode(np.repeat(np.repeat(frames, 2, axis=1), 2, axis=2)[:, :40])
        request = ScoreRequest(features, torch.arange(8) / 4, question, torch.tensor([[0, 3], [2, 7]]))
        of_tiny, of_remote, of_other = (scores[0] for scores in ensemble.score_each([request]))
        (together,) = ensemble.score([request])
    assert of_remote.tolist() == [[-1.0, -2.0]] * 2
    assert not torch.allclose(of_tiny, of_other)
    mean = torch.stack([table.softmax(-1) for table in (of_tiny, of_remote, of_other)]).mean(0)
    torch.testing.assert_close(together.exp(), mean)


def test_a_member_of_the_same_size_scores_as_it_does_alone() -> None:
    members = [new_reference(TinyReferenceConfig(seed=seed, width=32, layers=2)) for seed in (0, 1)]
    ensemble = EnsembleReference(members)
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    question, times = Question("Which?", ("cross", "ring")), torch.arange(8) / 4
    subsets = torch.tensor([[0, 3], [2, 7]])
    each = ensemble.score_each([ScoreRequest(ensemble.encode(frames), times, question, subsets)])
    for member, (scores,) in zip(members, each, strict=True):
        (alone,) = member.score([ScoreRequest(member.encode(frames), times, question, subsets)])
        assert torch.equal(scores, alone)


def test_an_ensemble_combines_rewards_and_not_scores() -> None:
    rules = (_noise, lambda s, t, p: 2 * _noise([*s, 1], t, p))
    rewards = [_judge(Fake(rule), LETTERED).rewards for rule in rules]
    ensemble = EnsembleReference([Fake(rule) for rule in rules])
    features = ensemble.encode(np.zeros((8, 8, 8, 3), dtype=np.uint8))
    trial = Trial(features, torch.arange(8) / 4, LETTERED, SUBSETS)
    for how in ("mean", "min"):
        (judged,) = judge(ensemble, [trial], ReferenceConfig.model_validate({"rotation": "none", "combine": how}))
        torch.testing.assert_close(judged.rewards, combine(rewards, how))
    assert combine(rewards, "min").tolist() == [min(pair) for pair in zip(*(r.tolist() for r in rewards), strict=True)]
    assert set(judged.correct.tolist()) <= {0.0, 0.5, 1.0}


def test_an_ensemble_is_a_list_in_the_settings(tmp_path: Path) -> None:
    settings = {
        "model": "haystack-tiny",
        "ensemble": [{"model": "far", "endpoint": "http://localhost:1/v1"}, {"model": "haystack-tiny"}],
        "combine": "min",
    }
    config = ReferenceConfig.parse(settings, "settings")
    assert ReferenceConfig.parse(config.model_dump(mode="json"), "saved") == config
    loaded = load_reference(config)
    assert isinstance(loaded, EnsembleReference)
    assert [type(member).__name__ for member in loaded.members] == [
        "HuggingFaceReference",
        "EndpointReference",
        "HuggingFaceReference",
    ]
    with pytest.raises(ConfigError, match=r"unknown setting 'ensemble.0.reward'; known ones here: model, .*endpoint$"):
        ReferenceConfig.parse({"ensemble": [{"reward": "margin"}]}, "settings")


# ------------------------------------------------------------------ end to end


@pytest.mark.parametrize("kind", ["open-ended", "ensemble"])
def test_training_runs_end_to_end(kind: str, haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = read_examples(haystack / "train.jsonl")
    if kind == "open-ended":
        examples = [
            Example(
                e.id, e.video, Question(e.question.text), 0, e.evidence, e.question_type, accepted=(e.texts[e.answer],)
            )
            for e in examples
        ]
    questions = tmp_path / "questions.jsonl"
    write_examples(questions, examples)
    config = RunConfig.parse(
        {
            "sampling": {"fps": 1.0, "max_frames": 16},
            "policy": tiny_config().model_dump(mode="json"),
            "reference": {"answer_mode": "words", "rotation": "average" if kind == "ensemble" else "shuffle"},
            "train": {
                "max_steps": 2, "videos_per_step": 2, "questions_per_video": 2, "num_generations": 4, "gate": 0.0,
                "stages": [{"until": 1.0, "budgets": [2]}], "learning_rate": 1e-3, "warmup_steps": 0,
            },
        },
        "test",
    )  # fmt: skip
    models = [new_reference(TinyReferenceConfig(seed=seed, width=32, layers=2)) for seed in (0, 1)]
    for model in models:
        model.answer_mode = "words"
    reference = EnsembleReference(models) if kind == "ensemble" else models[0]
    store = FeatureStore(tmp_path / "features", config, tiny_policy(), reference)
    numbers = train_policy(questions, tmp_path / "run", config, _silent, store=store)
    last = numbers["last"]
    assert last["step"] == 2
    assert -1 <= last["reward"] <= 1
    assert last["reward_std"] > 0
    assert math.isfinite(last["margin"])
    assert 0 < last["probability"] < 1
    assert 0 <= last["accuracy"] <= 1


def _silent(title: str, total: int) -> Any:
    from contextlib import nullcontext

    return nullcontext(lambda *_, **__: None)


def test_open_questions_at_an_endpoint_are_one_line(tmp_path: Path) -> None:
    with serving(lambda _: completion([("A", -1.0)])) as server:
        remote = load_reference(ReferenceConfig.parse({"endpoint": server.url, "model": "m"}, "settings"))
        features = remote.encode(np.zeros((8, 448, 448, 3), dtype=np.uint8))
        with pytest.raises(ReferenceModelError, match="question 'What is shown\\?' has no options"):
            judge(remote, [Trial(features, torch.arange(8) / 4, OPEN, SUBSETS)], ReferenceConfig())
    assert server.bodies == []


def test_no_number_is_no_reward() -> None:
    model = Fake(lambda subset, text, place: math.nan if (subset, place) == ([1, 7], 1) else 0.0)
    with pytest.raises(QuestionError, match=r"no number \(NaN\)"):
        _judge(model, LETTERED)
    trial = _trial(LETTERED)
    broken, sound = judge_apart(
        model, [[trial], [replace(trial, subsets=SUBSETS[:2])]], ReferenceConfig(rotation="none")
    )
    assert isinstance(broken, QuestionError)
    assert not isinstance(sound, ReferenceModelError)


def test_a_server_that_is_away_is_no_question_s_fault() -> None:
    class Away(Fake):
        def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
            raise ServiceError("status 503: away")

    with pytest.raises(ServiceError, match="away"):
        judge_apart(Away(_noise), [[_trial(LETTERED)]], ReferenceConfig())
