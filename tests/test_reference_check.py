"""`refocus reference check`: models whose faults are known are told them, and the bundled one gets its known numbers."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from chat_server import completion, serving
from refocus_video.cli.console import progress
from refocus_video.cli.main import app
from refocus_video.config import RunConfig, SamplingConfig, named_config
from refocus_video.data.evidence import evidence_recall
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.errors import ConfigError, DataError, ReferenceModelError
from refocus_video.evaluate.calibration import calibration_error, correlation, letter_bias, reliability, within
from refocus_video.evaluate.reference_check import Checking, drawn
from refocus_video.evaluate.reference_verdict import CAN, CANNOT, CARE
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference_run import check_reference
from refocus_video.types import ByteArray, Example, Question, Span

Row = dict[str, Any]
Belief = Callable[[float, int, int, int], Sequence[float]]
"""(share of the evidence seen, place of the right option, options, a number to draw from) -> probabilities of the options."""


@dataclass
class Believer:
    """A model that knows where the evidence is, and believes what a rule says. Letters: it sees the options as shown."""

    examples: Sequence[Example]
    belief: Belief
    image_size: tuple[int, int] = (8, 8)
    asked: int = 0
    patience: int = 10**9

    def encode(self, frames: ByteArray) -> Tensor:
        return torch.from_numpy(frames).float().mean((1, 2))

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        self.asked += len(requests)
        if self.asked > self.patience:
            raise KeyboardInterrupt
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> Tensor:
        question = request.question
        example = next(
            e for e in self.examples
            if e.question.text == question.text and set(e.question.options) == set(question.options)
        )  # fmt: skip
        place = question.options.index(example.question.options[example.answer])
        rows = []
        for subset in request.subsets:
            seen = evidence_recall(example, request.times[subset].tolist()) or 0.0
            draw = zlib.crc32(f"{question.text}{sorted(question.options)}{subset.tolist()}".encode())
            rows.append(self.belief(seen, place, len(question.options), draw))
        return torch.tensor(rows).clamp(min=1e-4).log()


def honest(seen: float, place: int, options: int, draw: int) -> list[float]:
    """Sure of the answer where all evidence is in sight, without preference otherwise."""
    chances = np.random.default_rng([draw, place]).uniform(0.97, 1.03, options)
    if seen == 1:
        chances[place] = 60
    return list(chances / chances.sum())


def likes_a(seen: float, place: int, options: int, draw: int) -> list[float]:
    chances = np.array(honest(seen, place, options, draw))
    chances[0] += 1.0 if seen < 1 else 0.0
    return list(chances / chances.sum())


def guesses_boldly(seen: float, place: int, options: int, draw: int) -> list[float]:
    """As sure of a guess as of what it has seen; the guess does not depend on the order of the options."""
    guess = place if seen == 1 else (place + draw) % options
    return [0.97 if i == guess else 0.03 / (options - 1) for i in range(options)]


def hates_half_the_truth(seen: float, place: int, options: int, draw: int) -> list[float]:
    """Sure of something wrong where a part of the evidence is in sight, as the first tiny reference models were."""
    if 0 < seen < 1:
        return [0.85 if i == (place + 1) % options else 0.05 for i in range(options)]
    return honest(seen, place, options, draw)


@pytest.fixture(scope="module")
def examples(haystack: Path) -> list[Example]:
    return read_examples(haystack / "train.jsonl")


@pytest.fixture
def run(haystack: Path, examples: list[Example], tmp_path: Path) -> Callable[..., Row]:
    """Checks a believer, or what a configuration says."""

    def checked(belief: Belief | None, *overrides: str, **settings: Any) -> Row:
        config = RunConfig.load(named_config("haystack"), overrides)
        reference = None if belief is None else Believer(examples, belief)
        return check_reference(
            haystack / "train.jsonl", tmp_path / "check", config, progress, reference=reference, **settings
        )

    return checked


def item(numbers: Row, name: str) -> Any:
    return next(item["passed"] for item in numbers["items"] if item["name"] == name)


LETTERS = "reference.answer_mode=letters"


def test_a_calibrated_model_can_teach(run: Callable[..., Row]) -> None:
    numbers = run(honest, LETTERS)
    assert (numbers["verdict"], numbers["advice"]) == (CAN, [])
    assert all(item["passed"] for item in numbers["items"])
    assert numbers["calibration"][0]["ece"] < 0.05
    everything = next(line for line in numbers["evidence"] if line["kind"] == "all")
    assert everything["correct"] == 1
    assert numbers["with_evidence"] == numbers["measured"] == numbers["asked"] == 24
    assert all(line["variation"] < 0.1 for line in numbers["letters"] if line["question_type"] == "all")


def test_a_liking_for_a_letter_is_told(run: Callable[..., Row]) -> None:
    numbers = run(likes_a, LETTERS)
    assert (numbers["verdict"], item(numbers, "letters")) == (CARE, False)
    blind = next(line for line in numbers["letters"] if line["kind"] == "none")
    assert (blind["favourite"], blind["picked"]["A"], blind["variation"]) == ("A", 1.0, 0.75)
    assert blind["accuracy"] == {"A": 1.0, "B": 0.0, "C": 0.0, "D": 0.0}
    assert blind["excess_low"] == blind["excess"] == 0.75
    assert any("reference.rotation" in advice for advice in numbers["advice"])


def test_confidence_without_evidence_is_told(run: Callable[..., Row]) -> None:
    numbers = run(guesses_boldly, LETTERS)
    assert numbers["verdict"] == CARE
    assert (item(numbers, "calibrated"), item(numbers, "modest"), item(numbers, "letters")) == (False, False, True)
    assert any("reward=probability" in advice for advice in numbers["advice"])
    blind = next(line for line in numbers["evidence"] if line["kind"] == "off")
    assert blind["confidence"] == pytest.approx(0.97)
    assert blind["overconfidence"] == pytest.approx(0.97 - blind["correct"])


def test_a_reward_that_pays_for_hiding_is_told_with_one_that_does_not(run: Callable[..., Row]) -> None:
    numbers = run(hates_half_the_truth, LETTERS)
    assert (numbers["verdict"], item(numbers, "hiding does not pay")) == (CANNOT, False)
    assert "use reference.reward=probability: it does not pay for hiding here" in numbers["advice"]
    said = next(item["says"] for item in numbers["items"] if item["name"] == "hiding does not pay")
    assert "reward margin pays for hiding frames" in said


def test_the_safe_reward_passes(run: Callable[..., Row]) -> None:
    numbers = run(hates_half_the_truth, LETTERS, "reference.reward=probability")
    assert item(numbers, "hiding does not pay") is True


def test_a_model_that_sees_nothing_cannot_teach(run: Callable[..., Row]) -> None:
    numbers = run(lambda seen, *rest: honest(0.0, *rest), LETTERS)
    assert numbers["verdict"] == CANNOT
    assert (item(numbers, "sees"), item(numbers, "evidence pays"), item(numbers, "calibrated")) == (False, False, True)


def test_questions_that_need_no_video_are_told(run: Callable[..., Row]) -> None:
    numbers = run(lambda seen, *rest: honest(1.0, *rest), LETTERS)
    assert item(numbers, "questions need the video") is False
    assert any("refocus filter" in advice for advice in numbers["advice"])


def test_the_bundled_model_has_its_known_calibration(run: Callable[..., Row]) -> None:
    """The table of its card: the probability of the answer is 1/4 without all of the evidence and 1.00 with it."""
    numbers = run(None)
    # With so few questions lucky guesses decide the rest.
    assert all(item["passed"] for item in numbers["items"] if item["needed"])
    lines = {line["kind"]: line for line in numbers["evidence"] if line["question_type"] == "all"}
    for kind in ("none", "off", "part"):
        assert lines[kind]["probability"] == pytest.approx(0.25, abs=0.02)
        assert -0.08 < lines[kind]["margin"] <= 0.01
    assert lines["all"]["probability"] > 0.99
    assert lines["all"]["correct"] == 1
    assert numbers["letters"] == []
    assert numbers["correlation"][0]["evidence"] > 0.8


def test_without_evidence_even_spacing_stands_against_no_frames(
    examples: list[Example], tmp_path: Path, run: Callable[..., Row], haystack: Path
) -> None:
    write_examples(tmp_path / "q.jsonl", [replace(example, evidence=()) for example in examples])
    config = RunConfig.load(named_config("haystack"), (LETTERS,))
    numbers = check_reference(
        tmp_path / "q.jsonl", tmp_path / "out", config, progress, reference=Believer(examples, honest), frames=48
    )
    assert numbers["with_evidence"] == 0
    assert {line["kind"] for line in numbers["evidence"]} == {"none", "uniform", "random"}
    assert {(line["hidden"], line["shown"]) for line in numbers["payment"]} == {("none", "uniform")}
    assert numbers["verdict"] == CAN


def test_open_ended_questions_are_told_by_their_likelihood(examples: list[Example], tmp_path: Path) -> None:
    written = [
        Example(e.id, e.video, Question(e.question.text), 0, e.evidence, accepted=(e.question.options[e.answer],))
        for e in examples
    ]
    write_examples(tmp_path / "q.jsonl", written)
    numbers = check_reference(
        tmp_path / "q.jsonl", tmp_path / "out", RunConfig.load(named_config("haystack")), progress
    )
    assert (numbers["verdict"], item(numbers, "evidence pays, open-ended")) == (CAN, True)
    lines = {line["kind"]: line for line in numbers["evidence"] if line["question_type"] == "open-ended"}
    assert "correct" not in lines["all"]
    assert lines["all"]["probability"] > 0.9 > 0.3 > lines["off"]["probability"]
    assert numbers["calibration"] == []
    assert "<svg" not in (tmp_path / "out/check.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------ as a job


def test_a_run_cut_short_goes_on_to_the_same_rows(haystack: Path, examples: list[Example], tmp_path: Path) -> None:
    config = RunConfig.load(named_config("haystack"), (LETTERS,))

    def checked(folder: str, **about: Any) -> Believer:
        reference = Believer(examples, honest, **about)
        check_reference(haystack / "train.jsonl", tmp_path / folder, config, progress, reference=reference)
        return reference

    whole = checked("whole")
    with pytest.raises(KeyboardInterrupt):
        checked("cut", patience=whole.asked // 2)
    journal = tmp_path / "cut/rows.jsonl"
    assert 0 < journal.read_bytes().count(b"\n") < 24
    journal.write_bytes(journal.read_bytes()[:-100])
    assert 0 < checked("cut").asked < whole.asked
    for name in ("rows.jsonl", "check.json"):
        first, second = ((tmp_path / folder / name).read_text("utf-8") for folder in ("whole", "cut"))
        assert first == second.replace(str(tmp_path / "cut"), str(tmp_path / "whole"))
    assert checked("cut").asked == 0
    with pytest.raises(ConfigError, match="holds a check of other frames; use another --output"):
        check_reference(
            haystack / "train.jsonl", tmp_path / "cut", config, progress, frames=4, reference=Believer(examples, honest)
        )


def test_failures_are_counted_and_tried_again(haystack: Path, examples: list[Example], tmp_path: Path) -> None:
    gone = replace(examples[0], id="gone", video=str(tmp_path / "gone.mp4"))
    many = replace(examples[1], id="many", question=Question("Which?", tuple(f"o{i}" for i in range(30))), answer=0)
    write_examples(tmp_path / "q.jsonl", [*examples[:6], gone, many])
    config = RunConfig.load(named_config("haystack"), (LETTERS,))
    numbers = check_reference(tmp_path / "q.jsonl", tmp_path / "out", config, progress)
    assert (numbers["asked"], numbers["measured"]) == (8, 6)
    assert list(numbers["failures"]) == [gone.video]
    assert "A to Z" in numbers["unscored"]["many"]
    page = (tmp_path / "out/check.html").read_text(encoding="utf-8")
    assert "2 of 8 questions could not be measured" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    (tmp_path / "gone.mp4").write_bytes(Path(examples[0].video).read_bytes())
    again = check_reference(tmp_path / "q.jsonl", tmp_path / "out", config, progress)
    assert (again["measured"], again["failures"], list(again["unscored"])) == (7, {}, ["many"])


def test_a_model_that_can_score_nothing_says_why(haystack: Path, tmp_path: Path) -> None:
    with serving(lambda _: completion(None)) as server:
        config = RunConfig.load(None, (f"reference.endpoint={server.url}", "sampling.max_frames=16"))
        with pytest.raises(ReferenceModelError, match="gives no log-probabilities"):
            check_reference(haystack / "train.jsonl", tmp_path, config, progress)


def test_no_video_at_all_is_one_line(examples: list[Example], tmp_path: Path) -> None:
    write_examples(tmp_path / "q.jsonl", [replace(examples[0], video=str(tmp_path / "gone.mp4"))])
    with pytest.raises(DataError, match="none of the 1 videos can be used"):
        check_reference(tmp_path / "q.jsonl", tmp_path, RunConfig(), progress, reference=Believer(examples, honest))


def test_the_command_checks_an_ensemble_with_an_endpoint(haystack: Path, tmp_path: Path) -> None:
    with serving(lambda _: completion([(letter, -1.4) for letter in "ABCD"])) as server:
        other = f"[{{model: m, endpoint: {{url: '{server.url}', image_size: [16, 16], cache: {tmp_path / 'cache'}}}}}]"
        command = ["reference", "check", str(haystack / "validation.jsonl"), "--output", str(tmp_path / "out"),
                   "--config", "haystack", "--set", f"reference.ensemble={other}", "--videos", "1", "--subsets", "2",
                   "--json"]  # fmt: skip
        done = CliRunner().invoke(app, command, catch_exceptions=False)
    numbers = json.loads(done.stdout)
    assert numbers["model"] == "haystack-tiny + m"
    assert numbers["asked"] == numbers["measured"] == 6
    assert numbers["usage"][0]["requests"] == len(server.bodies) > 0
    assert numbers["letters"], "the endpoint reads letters"
    assert json.loads((tmp_path / "out/check.json").read_text("utf-8")) == numbers


# ------------------------------------------------------------------ parts


def test_what_is_drawn_holds_the_evidence_that_it_says() -> None:
    times = np.arange(40) / 4.0
    spans = (Span(1.0, 1.5), Span(4.0, 4.0), Span(8.0, 9.0))
    example = Example("e", "v.mp4", Question("Which?", ("a", "b")), 0, spans)
    checking = Checking(None, RunConfig().reference, SamplingConfig(), frames=6, subsets=5, draws=7)  # type: ignore[arg-type]
    found = drawn(example, times, checking, np.random.default_rng(0))
    recall = {kind: {evidence_recall(example, times[row].tolist()) for row in rows} for kind, rows in found.items()}
    assert recall["off"] == {0.0}
    assert recall["part"] == {2 / 3}
    assert recall["all"] == {1.0}
    assert {kind: rows.shape for kind, rows in found.items()} == {
        "none": (1, 0), "uniform": (1, 6), "random": (5, 6), "off": (7, 6), "part": (7, 6), "all": (7, 6)
    }  # fmt: skip
    assert all((np.diff(rows) > 0).all() for rows in found.values() if rows.size)


@pytest.mark.parametrize(
    ("spans", "kinds"),
    [
        ((Span(1.0, 1.5),), {"off", "all"}),
        ((Span(1.05, 1.1), Span(4.0, 5.0)), set()),  # the first lies between two candidates
        (tuple(Span(i / 4, i / 4) for i in range(7)), set()),  # more spans than frames
        ((Span(0.0, 9.0),), {"all"}),  # nothing is left outside
        ((Span(2.0, 3.0), Span(2.0, 3.0)), {"off", "all"}),  # neither can be hidden alone
        ((), set()),
    ],
)
def test_evidence_that_cannot_be_shown_or_hidden_is_left_out(spans: tuple[Span, ...], kinds: set[str]) -> None:
    example = Example("e", "v.mp4", Question("Which?", ("a", "b")), 0, spans)
    checking = Checking(None, RunConfig().reference, SamplingConfig(), frames=6)  # type: ignore[arg-type]
    found = drawn(example, np.arange(40) / 4.0, checking, np.random.default_rng(0))
    assert set(found) - {"none", "uniform", "random"} == kinds


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    confidence, correct = [0.25, 0.25, 0.25, 0.25, 0.9, 1.0], [1, 0, 0, 0, 1, 0]
    assert reliability(confidence, correct) == [
        {"confidence": 0.25, "accuracy": 0.25, "n": 4},
        {"confidence": pytest.approx(0.95), "accuracy": 0.5, "n": 2},
    ]
    videos = ["a", "a", "b", "b", "c", "c"]
    measured = calibration_error(confidence, correct, videos)
    assert measured["ece"] == pytest.approx(2 / 6 * 0.45)
    assert measured["ece_low"] <= measured["ece"] <= measured["ece_high"]
    assert calibration_error([0.25], [1], ["a"]) == {"ece": 0.75, "ece_low": None, "ece_high": None}


def test_correlation_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    measured = correlation(x, y, [i // 4 for i in range(200)])
    assert measured["r"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert measured["r_low"] < measured["r"] < measured["r_high"]
    assert measured["r_high"] - measured["r_low"] < 0.3
    assert correlation(x, np.ones(200), range(200))["r"] is None
    assert within([1.0, 3.0, 5.0], ["a", "a", "b"]).tolist() == [-1.0, 1.0, 0.0]


def test_letters_of_questions_with_different_numbers_of_options() -> None:
    picked, right = [0, 0, 0, 1, 2], [0, 1, 0, 1, 2]
    found = letter_bias(picked, right, [2, 2, 3, 3, 3], ["a", "a", "b", "b", "b"])
    assert found["expected"] == pytest.approx({"A": 0.4, "B": 0.4, "C": 0.2})
    assert found["picked"] == pytest.approx({"A": 0.6, "B": 0.2, "C": 0.2})
    assert found["variation"] == pytest.approx(0.2)
    assert (found["favourite"], found["excess"], found["spread"]) == ("A", pytest.approx(0.2), 0.5)
