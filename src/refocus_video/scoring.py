"""From subsets to rewards (METHOD §4): what the reference model is asked, and what its scores become.

Dimensions: F candidate frames · K frames in a subset · G subsets of a question · O options · C sets of control frames · M models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refocus_video.config import ReferenceConfig
from refocus_video.errors import QuestionError, ReferenceModelError, ServiceError
from refocus_video.reference.base import FrameFeatures, ReferenceModel, ScoreRequest
from refocus_video.reference.ensemble import scores_of_each
from refocus_video.reference.letters import rotated
from refocus_video.reference.margin import gain, margin, probability_reward
from refocus_video.reference.rewards import Reward, combine, load_reward
from refocus_video.types import Example
from refocus_video.video.sampling import uniform_positions


@dataclass(frozen=True, slots=True)
class Trial:
    """Subsets of one video that are to be judged for one example."""

    features: FrameFeatures
    """What the reference model sees of the candidates, (F, ...)."""
    times: Tensor
    """Their times in seconds, (F,)."""
    example: Example
    subsets: Tensor
    """(G, K) positions in temporal order."""
    control_frames: int | None = None
    """How many evenly spread frames a reward compares with where it does; K if None."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How good each of G subsets is. Of several reference models, all but the rewards are averages."""

    rewards: Tensor
    """(G,) float32."""
    margins: Tensor
    """(G,): score of the answer minus the best other option's; without options, minus its score with the best control frames."""
    probabilities: Tensor
    """(G,): of the answer among the options; without options, the geometric mean of its tokens' probabilities."""
    correct: Tensor
    """(G,): 1 where the margin is positive, else 0."""
    chances: Tensor
    """(G, O): probability of every option, which sum to 1; without options as ``probabilities``, (G, 1)."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One request about some of a trial's subsets, with the options rotated."""

    request: ScoreRequest
    rows: Tensor
    """Which of the subsets, (R,)."""
    by: int
    """Places by which the options were rotated."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that is asked for one trial."""

    trial: Trial
    reward: Reward
    parts: list[_Part]
    controls: list[ScoreRequest]

    @property
    def requests(self) -> list[ScoreRequest]:
        return [*(part.request for part in self.parts), *self.controls]


def judge(reference: ReferenceModel, trials: Sequence[Trial], config: ReferenceConfig) -> list[Judgement]:
    """Let the reference model score all subsets of all trials, in one call.

    Raises:
        ConfigError: if a reward is unknown or gives what is no reward.
    """
    plans = [_plan(trial, config) for trial in trials]
    requests = [request for plan in plans for request in plan.requests]
    opinions = [[_read(plan, scores) for plan in plans] for scores in map(iter, scores_of_each(reference, requests))]
    return [_together(judgements, config) for judgements in zip(*opinions, strict=True)]


def judge_apart(
    reference: ReferenceModel, questions: Sequence[Sequence[Trial]], config: ReferenceConfig
) -> list[list[Judgement] | ReferenceModelError]:
    """The trials of each question, in one call where that goes well: a question that cannot be scored costs no other one."""
    try:
        judged = iter(judge(reference, [trial for trials in questions for trial in trials], config))
        return [[next(judged) for _ in trials] for trials in questions]
    except ServiceError:
        raise  # no question's fault: asked one by one, each would fail, and stay without a score for good
    except ReferenceModelError:
        return [_alone(reference, trials, config) for trials in questions]


def _alone(
    reference: ReferenceModel, trials: Sequence[Trial], config: ReferenceConfig
) -> list[Judgement] | ReferenceModelError:
    try:
        return judge(reference, trials, config)
    except ServiceError:
        raise
    except ReferenceModelError as error:
        return error


def _plan(trial: Trial, config: ReferenceConfig) -> _Plan:
    options = len(trial.example.question.options)
    reward = load_reward(config.reward if options else config.open_reward)
    rows = torch.arange(len(trial.subsets))
    if config.rotation == "cycle" and options:
        turns = [(by, rows[by::options]) for by in range(min(options, len(rows)))]
    elif config.rotation == "average" and options:
        turns = [(by, rows) for by in range(options)]
    else:
        turns = [(0, rows)]
    parts = [_Part(_request(trial, trial.subsets[some], by), some, by) for by, some in turns]
    # Without options the log says how much better the answer fares than with control frames, whatever the reward is.
    controls = [] if options and not reward.wants_control else _controls(trial, config)
    return _Plan(trial, reward, parts, controls)


def _controls(trial: Trial, config: ReferenceConfig) -> list[ScoreRequest]:
    frames = len(trial.times)
    budget = trial.subsets.shape[1] if trial.control_frames is None else trial.control_frames
    subsets = {"uniform": torch.from_numpy(uniform_positions(frames, budget)), "none": torch.empty(0, dtype=torch.long)}
    return [_request(trial, subsets[kind][None], 0) for kind in config.control]


def _request(trial: Trial, subsets: Tensor, by: int) -> ScoreRequest:
    question, texts = rotated(trial.example.question, by), trial.example.accepted or None
    return ScoreRequest(trial.features, trial.times, question, subsets, texts)


def _read(plan: _Plan, scores: Iterator[Tensor]) -> Judgement:
    """What one model's scores, in the order of the plan's requests, say of its subsets."""
    example = plan.trial.example
    total, count = torch.zeros(len(plan.trial.subsets), len(example.texts)), torch.zeros(len(plan.trial.subsets), 1)
    for part in plan.parts:
        total[part.rows] += next(scores).float().roll(part.by, dims=-1)
        count[part.rows] += 1
    table = total / count  # (G, O), the options in their own order
    if table.isnan().any():
        raise QuestionError(
            f"the reference model gives no number (NaN) as a score of question {example.question.text!r}"
        )
    control = torch.cat([next(scores).float() for _ in plan.controls] or [table[:0]])  # (C, O)
    answer = example.answer
    if example.question.options:
        margins, probabilities = margin(table, answer), probability_reward(table, answer)
        chances = table.softmax(-1)
    else:
        # Every accepted answer counts as right: the likeliest one speaks for all.
        table, control, answer = table.amax(-1, keepdim=True), control.amax(-1, keepdim=True), 0
        margins, probabilities = gain(table, answer, control), table[:, answer].exp()
        chances = table.exp()
    return Judgement(plan.reward(table, answer, control), margins, probabilities, (margins > 0).float(), chances)


def _together(judged: Sequence[Judgement], config: ReferenceConfig) -> Judgement:
    """The judgement of several models."""
    return Judgement(
        combine([one.rewards for one in judged], config.combine),
        combine([one.margins for one in judged], "mean"),
        combine([one.probabilities for one in judged], "mean"),
        combine([one.correct for one in judged], "mean"),
        combine([one.chances for one in judged], "mean"),
    )
