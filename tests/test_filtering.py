"""The filter as a job: what it measures, what survives a kill, how processes share it, what it leaves behind."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from chat_server import completion, serving
from refocus_video import filter_run
from refocus_video.cli.console import progress
from refocus_video.config import EndpointConfig, FilterConfig, ReferenceConfig, RunConfig, SamplingConfig, named_config
from refocus_video.data.examples import fingerprint, read_examples, with_options, write_examples
from refocus_video.data.questions import QuestionFile
from refocus_video.errors import ConfigError, DataError, ReferenceModelError, RefocusWarning, ServiceError
from refocus_video.filter_run import check_measured, filter_questions
from refocus_video.reference.base import ReferenceModel
from refocus_video.reference.endpoint.model import EndpointReference
from refocus_video.train.features import FeatureStore, reference_viewer
from refocus_video.train.filter import choose, margin_variance
from refocus_video.train.filter_report import Counts, histogram
from refocus_video.train.filtering import keeping_look, measure, passing_look, reference_fingerprint, stored_look
from refocus_video.train.measured import Parts
from refocus_video.train.tiny_reference import TinyReferenceConfig, new_reference
from refocus_video.train.views import ViewStore
from refocus_video.types import Example, Question
from tiny_policy import tiny_config, tiny_policy

REWARDS = ReferenceConfig()
FILTER = FilterConfig(budget=4, threshold=0.0)
SAMPLING = SamplingConfig(fps=2.0)
OUTPUTS = ("kept.jsonl", "variances.jsonl", "filter.json")


@pytest.fixture(scope="module")
def reference() -> ReferenceModel:
    reference = new_reference(TinyReferenceConfig(width=32, layers=2))
    reference.answer_mode = "words"
    return reference


@pytest.fixture(scope="module")
def questions(haystack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about five videos, not in the order of the videos; one of the videos is missing."""
    examples = read_examples(haystack / "train.jsonl")
    gone = [
        replace(example, id=f"gone-{i}", video=str(haystack / "gone.mp4")) for i, example in enumerate(examples[:2])
    ]
    path = tmp_path_factory.mktemp("filter") / "questions.jsonl"
    write_examples(path, sorted([*examples, *gone], key=lambda example: example.id[::-1]))
    return path


@pytest.fixture
def settings(reference: ReferenceModel, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Settings of a run, whose reference model is loaded already."""
    monkeypatch.setattr(filter_run, "load_reference", lambda config, device: reference)
    return RunConfig.load(named_config("haystack"), ("sampling.fps=2", "filter.budget=4", "filter.threshold=0.004"))


@pytest.fixture
def whole(questions: Path, settings: RunConfig, tmp_path: Path) -> dict[str, bytes]:
    """What an uninterrupted run writes."""
    numbers = filter_questions(questions, tmp_path / "whole", settings, progress)
    assert 0 < numbers["kept"] < numbers["measured"] == 24
    return outputs(tmp_path / "whole")


def outputs(folder: Path) -> dict[str, bytes]:
    """What a run has written, without the name of its folder."""
    return {name: (folder / name).read_bytes().replace(str(folder).encode(), b"") for name in OUTPUTS}


class Counting:
    """A reference model that counts the questions put to it."""

    def __init__(self, inner: ReferenceModel) -> None:
        self.inner, self.asked = inner, 0

    @property
    def image_size(self) -> tuple[int, int]:
        return self.inner.image_size

    def encode(self, frames: Any) -> torch.Tensor:
        return self.inner.encode(frames)

    def score(self, requests: Any) -> Any:
        self.asked += len(requests)
        return self.inner.score(requests)


# ------------------------------------------------------------------ the question file


def test_a_question_file_is_read_in_pieces_as_in_one(questions: Path) -> None:
    examples = read_examples(questions)
    file = QuestionFile(questions)
    assert list(file) == examples
    assert (len(file), file.fingerprint) == (26, fingerprint(examples))
    assert file.videos == list(dict.fromkeys(example.video for example in examples))
    for video in reversed(file.videos):
        assert file.about(video) == [example for example in examples if example.video == video]
        assert file.count(video) == len(file.about(video))


def test_a_question_file_is_checked_at_once(tmp_path: Path) -> None:
    open_ended = Example("open", "v.mp4", Question("?"), 0, accepted=("x",))
    write_examples(tmp_path / "q.jsonl", [_example("a", "x", 0), open_ended])
    with pytest.raises(DataError, match="question 'open' has no options, and the filter compares options"):
        QuestionFile(tmp_path / "q.jsonl", lambda examples: with_options(examples, "the filter"))
    (tmp_path / "q.jsonl").write_bytes(b"\n\xef\xbb\xbf")
    with pytest.raises(DataError, match="holds no examples"):
        QuestionFile(tmp_path / "q.jsonl")


# ------------------------------------------------------------------ part files


def test_damaged_records_are_counted_and_dropped(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    with parts.appending(0) as add:
        for video in "abcd":
            add({"video": video, "rows": []})
    path = tmp_path / "rank-00000.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    nothing = bytes(len(lines[1]) + 4)  # zeros over one line and the begin of the next
    path.write_bytes(lines[0] + nothing + lines[2][4:] + lines[3])
    with pytest.warns(RefocusWarning, match=rf"{path}: 1 record damaged; the videos are measured again"):
        parts.mend()
    places = parts.index()
    assert sorted(places) == ["a", "d"]
    assert parts.reading(places)("d") == {"video": "d", "rows": []}


def test_a_cut_manifest_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"measured": {"ques')
    with pytest.raises(ConfigError, match=rf"manifest.json is damaged.*remove {tmp_path}, or choose another --output"):
        check_measured(tmp_path, {})


def test_records_survive_a_cut_and_a_later_success_replaces_a_failure(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    parts.mend()
    assert parts.index() == {}
    long = {"video": "b", "rows": [{"id": "é" * 70_000}]}  # longer than what is read at once when looking for its end
    with parts.appending(3) as add:
        add({"video": "a", "error": "gone"})
        add(long)
    with parts.appending(0) as add:
        add({"video": "a", "rows": []})
        add({"video": "c", "error": "broken"})
    whole = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    for name, torn in (("rank-00000.jsonl", b'{"video": "d", "ro'), ("rank-00003.jsonl", b"x" * 200_000)):
        (tmp_path / "parts" / name).write_bytes(whole[name] + torn)
    parts.mend()
    assert {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()} == whole
    places = parts.index()
    assert {video: place.error for video, place in places.items()} == {"a": None, "b": None, "c": "broken"}
    read = parts.reading(places)
    assert [read(video) for video in "ab"] == [{"video": "a", "rows": []}, long]
    assert parts.sizes() == {"rank-00000.jsonl": 2, "rank-00003.jsonl": 2}
    (tmp_path / "parts" / "rank-00003.jsonl").write_bytes(b"nothing whole")
    parts.mend()
    assert set(parts.index()) == {"a", "c"}
    parts.remove()
    assert not (tmp_path / "parts").exists()


# ------------------------------------------------------------------ what is measured


def test_what_is_measured_does_not_depend_on_where_features_lie(
    questions: Path, reference: ReferenceModel, tmp_path: Path
) -> None:
    file = QuestionFile(questions)
    store = FeatureStore(
        tmp_path / "shared", RunConfig(sampling=SAMPLING, policy=tiny_config()), tiny_policy(), reference
    )
    views = ViewStore(tmp_path / "kept", SAMPLING, reference_viewer(reference))
    looks = (passing_look(reference, SAMPLING), keeping_look(views), stored_look(store))
    passed, kept, stored = (list(measure(file.videos, file, look, reference, FILTER, REWARDS)) for look in looks)
    assert passed == kept == stored
    (failed,) = [record for record in passed if "error" in record]
    assert failed["video"].endswith("gone.mp4")
    assert failed["error"] == f"no video file at {failed['video']}"
    assert len(list((tmp_path / "kept").iterdir())) == 4
    with patch("refocus_video.train.filtering.load_candidates", side_effect=AssertionError("looked again")):
        read = list(measure([r["video"] for r in passed if "rows" in r], file, looks[1], reference, FILTER, REWARDS))
    assert read == [record for record in passed if "rows" in record]


def test_the_numbers_of_a_row_follow_from_its_margins(questions: Path, reference: ReferenceModel) -> None:
    file = QuestionFile(questions)
    records = list(measure(file.videos, file, passing_look(reference, SAMPLING), reference, FILTER, REWARDS))
    rows = [row for record in records if "rows" in record for row in record["rows"]]
    assert [row["id"] for row in rows] == [e.id for r in records if "rows" in r for e in file.about(r["video"])]
    for row in rows:
        margins = torch.tensor(row["margins"])
        assert margins.shape == (16,)
        assert row["variance"] == pytest.approx(margin_variance(margins), abs=1e-6)
        assert row["mean"] == pytest.approx(float(margins.mean()), abs=1e-6)
        assert row["accuracy"] == float((margins > 0).float().mean())
    assert len({row["variance"] for row in rows}) > 12


def test_questions_without_options_vary_by_how_likely_their_answer_is(
    questions: Path, reference: ReferenceModel, settings: RunConfig, tmp_path: Path
) -> None:
    closed = [example for example in read_examples(questions) if not example.id.startswith("gone")]
    opened = [
        Example(f"open-{e.id}", e.video, Question(e.question.text), 0, accepted=(e.question.options[e.answer],))
        for e in closed
    ]
    write_examples(tmp_path / "q.jsonl", [*closed, *opened])
    numbers = filter_questions(tmp_path / "q.jsonl", tmp_path / "both", settings, progress)
    assert (numbers["measured"], numbers["unscored"]) == (48, {})
    assert sum(numbers["letters_before"].values()) == 24
    rows = {row["id"]: row for row in map(json.loads, (tmp_path / "both/variances.jsonl").read_text().splitlines())}
    filter_questions(questions, tmp_path / "closed", settings, progress)
    alone = {row["id"]: row for row in map(json.loads, (tmp_path / "closed/variances.jsonl").read_text().splitlines())}
    assert all(rows[example.id] == alone[example.id] for example in closed)
    assert all(0 < rows[example.id]["variance"] < 1 for example in opened)
    kept = read_examples(tmp_path / "both/kept.jsonl")
    assert {e.id for e in kept} == {name for name, row in rows.items() if row["variance"] > 0.004}


def test_what_a_server_was_asked_is_told_and_not_kept(questions: Path, tmp_path: Path) -> None:
    with serving(lambda body: completion([(letter, -1.0 - i) for i, letter in enumerate("ABCD")])) as server:
        endpoint = f"{{url: '{server.url}', image_size: [16, 16], price_per_million_in: 1e4, cache: {tmp_path / 'c'}}}"
        config = RunConfig.load(None, (f"reference.endpoint={endpoint}", "sampling.fps=2", "filter.budget=4"))
        numbers = filter_questions(questions, tmp_path / "out", config, progress)
        (used,) = numbers["usage"]
        assert (used["url"], used["requests"]) == (server.url, 24 * 16)
        assert used["prompt_tokens"] == 100 * len(server.bodies)
        assert used["cost"] == pytest.approx(len(server.bodies))
        assert "usage" not in json.loads((tmp_path / "out/filter.json").read_text())
        again = filter_questions(questions, tmp_path / "out", config, progress)
    assert again["usage"][0]["requests"] == 0


def test_models_that_score_differently_have_different_names(reference: ReferenceModel) -> None:
    model: Any = reference
    twin = new_reference(TinyReferenceConfig(width=32, layers=2))
    with torch.no_grad():  # the same eyes, another language model
        twin.model.get_output_embeddings().weight += 1
    assert reference_viewer(twin).key == reference_viewer(model).key
    assert reference_fingerprint(twin) != reference_fingerprint(model)
    assert reference_fingerprint(new_reference(TinyReferenceConfig(width=32, layers=2))) == reference_fingerprint(model)

    def at(name: str, **about: Any) -> str:
        return reference_fingerprint(EndpointReference(name, EndpointConfig(url="http://a/v1", **about)))

    names = [at("m"), at("n"), at("m", jpeg_quality=50), at("m", image_size=(64, 64)), at("m", extra_body={"seed": 1})]
    assert len(set(names)) == len(names)
    assert at("m", timeout_s=1.0, concurrency=2, api_key_env="OTHER") == at("m")


class Picky:
    """A reference model that cannot score some questions."""

    def __init__(self, refused: str) -> None:
        self.image_size, self.refused = (8, 8), refused

    def encode(self, frames: Any) -> torch.Tensor:
        return torch.zeros(len(frames), 1)

    def score(self, requests: Any) -> list[torch.Tensor]:
        for request in requests:
            if self.refused in request.question.text:
                raise ReferenceModelError(f"cannot score {request.question.text!r}")
        return [torch.eye(16)[:, :2] for _ in requests]


class Down(Picky):
    """A server that goes away at a question."""

    def score(self, requests: Any) -> list[torch.Tensor]:
        for request in requests:
            if self.refused and self.refused in request.question.text:
                raise ServiceError("status 500: gone")
        return [torch.eye(16)[:, :2] for _ in requests]


def filtered(questions: Path, output: Path, reference: ReferenceModel) -> dict[str, Any]:
    """What `filter` finds with a reference model of ours."""
    with (
        patch.object(filter_run, "load_reference", lambda *_: reference),
        patch.object(filter_run, "reference_fingerprint", lambda _: "ours"),
    ):
        return filter_questions(questions, output, RunConfig(sampling=SAMPLING, filter=FILTER), progress)


def test_an_outage_is_recorded_of_no_question_and_the_run_goes_on_later(haystack: Path, tmp_path: Path) -> None:
    names = sorted((haystack / "train").glob("*.mp4"))[:3]
    examples = [Example(f"q{k}", str(path), Question(f"q{k}?", ("x", "y")), 0) for k, path in enumerate(names)]
    write_examples(tmp_path / "q.jsonl", examples)

    with pytest.raises(ServiceError, match="gone"):
        filtered(tmp_path / "q.jsonl", tmp_path / "out", Down("q2"))
    assert "error" not in "".join(path.read_text() for path in (tmp_path / "out" / "measured").iterdir())
    found = filtered(tmp_path / "q.jsonl", tmp_path / "out", Down(""))
    assert (found["measured"], found["unscored"]) == (3, {})
    filtered(tmp_path / "q.jsonl", tmp_path / "undisturbed", Down(""))
    assert (tmp_path / "out/variances.jsonl").read_bytes() == (tmp_path / "undisturbed/variances.jsonl").read_bytes()


def test_a_question_without_a_score_is_asked_again_by_a_later_run(haystack: Path, tmp_path: Path) -> None:
    video = str(haystack / "train" / "000000.mp4")
    examples = [Example(name, video, Question(f"{name}?", ("x", "y")), 0) for name in ("good", "bad")]
    write_examples(tmp_path / "q.jsonl", examples)
    found = [filtered(tmp_path / "q.jsonl", tmp_path / "out", Picky(refused)) for refused in ("bad", "bad", "nothing")]
    assert [(one["measured"], list(one["unscored"])) for one in found] == [(1, ["bad"]), (1, ["bad"]), (2, [])]
    (part,) = (tmp_path / "out" / "measured").iterdir()
    assert len(part.read_text().splitlines()) == 2  # what failed the same way again is not written again


def test_a_question_that_cannot_be_scored_does_not_cost_the_others(haystack: Path, tmp_path: Path) -> None:
    video = str(haystack / "train" / "000000.mp4")
    examples = [Example(name, video, Question(f"{name}?", ("x", "y")), 0) for name in ("good", "bad", "fine")]
    write_examples(tmp_path / "q.jsonl", examples)
    file = QuestionFile(tmp_path / "q.jsonl")
    picky = Picky("bad")
    (record,) = measure(file.videos, file, passing_look(picky, SAMPLING), picky, FILTER, REWARDS)
    good, bad, fine = record["rows"]
    assert bad == {"id": "bad", "error": "cannot score 'bad?'"}
    assert good["margins"] == fine["margins"]
    hopeless = Picky("?")  # refuses everything: a wrong key, say, not wrong questions
    with pytest.raises(ReferenceModelError, match="cannot score 'good"):
        list(measure(file.videos, file, passing_look(hopeless, SAMPLING), hopeless, FILTER, REWARDS))


# ------------------------------------------------------------------ interruptions


class StoppedError(Exception):
    """Stands for whatever ends a run."""


def fail() -> None:
    raise StoppedError


def stopping(after: int, stop: Callable[[], None]) -> Any:
    """Progress that does something to the run when so many videos are done."""

    @contextmanager
    def shown(title: str, total: int | None) -> Any:
        done = 0

        def advance(*_: Any, **__: Any) -> None:
            nonlocal done
            done += 1
            if done == after:
                stop()

        yield advance

    return shown


def test_a_run_cut_anywhere_ends_in_the_same_bytes(
    questions: Path, settings: RunConfig, reference: ReferenceModel, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "cut"
    counting = Counting(reference)
    with patch.object(filter_run, "load_reference", lambda config, device: counting):
        for after in (1, 2, 1):
            with pytest.raises(StoppedError):
                filter_questions(questions, output, settings, stopping(after, fail))
            part = output / "measured" / "rank-00000.jsonl"
            part.write_bytes(part.read_bytes() + b'{"video": "half a rec')
        filter_questions(questions, output, settings, progress)
        assert counting.asked == 24  # none lost, none repeated
        assert outputs(output) == whole
        filter_questions(questions, output, settings, progress)
        assert counting.asked == 24


def test_processes_share_the_videos_and_any_number_of_them_goes_on(
    questions: Path, settings: RunConfig, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "shared"
    launched(questions, output, settings, 3, stopping(1, fail))
    assert sorted(path.name for path in (output / "measured").iterdir()) == [f"rank-0000{i}.jsonl" for i in range(3)]
    assert not (output / "filter.json").exists()
    launched(questions, output, settings, 2, progress)
    assert outputs(output) == whole
    measured = [json.loads(line) for path in (output / "measured").iterdir() for line in path.open(encoding="utf-8")]
    assert len(measured) == len({record["video"] for record in measured}) == 5


def launched(questions: Path, output: Path, settings: RunConfig, processes: int, shown: Any) -> None:
    """Run as several processes would, in threads: each with its rank, meeting at the same places."""
    barrier = threading.Barrier(processes)

    def process(rank: int) -> None:
        try:
            filter_questions(questions, output, settings, shown)
        except (StoppedError, threading.BrokenBarrierError):
            barrier.abort()

    def accelerator(*_: Any, **options: Any) -> Any:
        rank = int(threading.current_thread().name)
        return SimpleNamespace(
            process_index=rank, num_processes=processes, is_main_process=rank == 0, device="cpu",
            wait_for_everyone=barrier.wait,
        )  # fmt: skip

    with patch.object(filter_run, "new_accelerator", accelerator):
        threads = [threading.Thread(target=process, args=(rank,), name=str(rank)) for rank in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked and killed")
def test_a_killed_run_goes_on_to_the_same_bytes(
    questions: Path, settings: RunConfig, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    part = output / "measured" / "rank-00000.jsonl"
    for records in (1, 2):
        before = written(part)
        # The run waits there for the signal: on a slow machine it would otherwise be over before it comes.
        waiting = stopping(records, lambda: time.sleep(60))
        child = forked(partial(filter_questions, questions, output, settings, waiting))
        deadline = time.monotonic() + 60
        while written(part) == before:
            assert time.monotonic() < deadline, "the run makes no progress"
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not (output / "filter.json").exists()
    filter_questions(questions, output, settings, progress)
    assert outputs(output) == whole


def written(part: Path) -> int:
    """Records in a part file."""
    return part.read_bytes().count(b"\n") if part.exists() else 0


def forked(work: Callable[[], Any]) -> int:
    """The id of a process that does some work."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # threads do not survive a fork
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()
        os._exit(0)
    return child


# ------------------------------------------------------------------ what is kept


def test_the_largest_are_chosen_and_earlier_ones_among_equals() -> None:
    variances = np.array([0.2, np.nan, 0.5, 0.2, 0.1, 0.2])
    assert choose(variances, 0.1).tolist() == [True, False, True, True, False, True]
    for keep, kept in (
        (1, [2]),
        (2, [0, 2]),
        (3, [0, 2, 3]),
        (5, [0, 2, 3, 4, 5]),
        (6, [0, 2, 3, 4, 5]),
        (99, [0, 2, 3, 4, 5]),
    ):
        assert np.flatnonzero(choose(variances, 9.0, keep)).tolist() == kept


def test_another_limit_chooses_anew_and_measures_nothing(
    questions: Path, settings: RunConfig, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "whole"
    rows = [json.loads(line) for line in whole["variances.jsonl"].splitlines()]
    five = settings.model_copy(update={"filter": settings.filter.model_copy(update={"keep": 5})})
    with patch.object(filter_run, "measure", lambda videos, *rest: iter(())):
        numbers = filter_questions(questions, output, five, progress)
    largest = sorted((row for row in rows if "variance" in row), key=lambda row: -row["variance"])[:5]
    assert {example.id for example in read_examples(output / "kept.jsonl")} == {row["id"] for row in largest}
    assert (numbers["kept"], numbers["threshold"]) == (5, largest[-1]["variance"])
    assert sum(numbers["letters_after"].values()) == 5


def test_a_run_leaves_all_it_takes_to_repeat_it(
    questions: Path, settings: RunConfig, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "whole"
    numbers = json.loads(whole["filter.json"])
    assert (numbers["asked"], numbers["measured"], numbers["unreadable"]) == (26, 24, 2)
    assert list(numbers["failures"].values()) == [f"no video file at {video}" for video in numbers["failures"]]
    assert sum(numbers["letters_before"].values()) == 24
    rows = [json.loads(line) for line in whole["variances.jsonl"].splitlines()]
    assert [row["id"] for row in rows] == [example.id for example in read_examples(questions)]
    assert {row["id"] for row in rows if "error" in row} == {"gone-0", "gone-1"}
    above = [row["id"] for row in rows if row.get("variance", 0) > 0.004]
    assert [example.id for example in read_examples(output / "kept.jsonl")] == above
    assert (output / "histogram.png").read_bytes().startswith(b"\x89PNG")
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"] == {"asked": 26, "measured": 24, "kept": len(above), "unreadable": 2, "unscored": 0}
    assert manifest["measured"]["questions"] == fingerprint(read_examples(questions))
    assert manifest["videos_in_parts"] == {"rank-00000.jsonl": 5}
    saved = manifest["command"].split("--config ")[1].split(" ")[0]
    again = filter_questions(questions, tmp_path / "again", RunConfig.load(Path(saved)), progress)
    assert outputs(tmp_path / "again") == whole
    assert again["kept"] == len(above)


def test_measurements_of_something_else_are_refused(
    questions: Path, settings: RunConfig, whole: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "whole"
    other = new_reference(TinyReferenceConfig(width=32, layers=2, seed=5))
    with (
        patch.object(filter_run, "load_reference", lambda config, device: other),
        pytest.raises(
            ConfigError, match=r"holds variances of other weights; use another --output or the same settings"
        ),
    ):
        filter_questions(questions, output, settings, progress)
    (output / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="holds variances of an earlier version"):
        filter_questions(questions, output, settings, progress)


def test_parquet_holds_the_same(questions: Path, settings: RunConfig, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "parquet"
    filter_questions(questions, output, settings, progress, parquet=True)
    rows = [json.loads(line) for line in (output / "variances.jsonl").read_text(encoding="utf-8").splitlines()]
    table = parquet.read_table(output / "variances.parquet").to_pylist()
    assert [{key: value for key, value in row.items() if value is not None} for row in table] == rows
    kept = parquet.read_table(output / "kept.parquet").to_pylist()
    examples = read_examples(output / "kept.jsonl")
    assert [(row["id"], tuple(row["options"]), row["answer"], json.loads(row["metadata"])) for row in kept] == [
        (example.id, example.question.options, example.answer, example.metadata) for example in examples
    ]


def test_parquet_without_pyarrow_is_refused_before_the_work(
    questions: Path, settings: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"Parquet files need pyarrow; pip install 'refocus-video\[data\]'"):
        filter_questions(questions, tmp_path / "out", settings, progress, parquet=True)
    assert not (tmp_path / "out").exists()


def _example(name: str, kind: str, answer: int) -> Example:
    return Example(name, f"{name}.mp4", Question("what?", ("a", "b")), answer, question_type=kind)


def test_every_question_that_was_asked_is_counted() -> None:
    counts = Counts()
    examples = [_example("a", "x", 0), _example("b", "x", 1), _example("c", "y", 1), _example("d", "y", 0)]
    for example, measured, kept in zip(examples, (True, True, True, False), (True, False, True, False), strict=True):
        counts.add(example, measured, kept)
    numbers = counts.to_json()
    assert (numbers["asked"], numbers["measured"], numbers["kept"]) == (4, 3, 2)
    assert numbers["asked_by_type"] == {"x": 2, "y": 2}  # the unreadable one too
    assert numbers["kept_by_type"] == {"x": 1, "y": 1}
    assert (numbers["letters_before"], numbers["letters_after"]) == ({"A": 1, "B": 2}, {"A": 1, "B": 1})
    assert sum(histogram(np.array([0.1, np.nan, 1.0, 0.0]))["counts"]) == 3
