"""Frame selection inside lmms-eval, as far as it goes without it: messages, arguments, what is chosen, and what is handed on."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest

from refocus_video.config import SamplingConfig
from refocus_video.data.selections import Chosen, read_selections, write_selections
from refocus_video.errors import ConfigError, DataError
from refocus_video.integrations.frames import Asked, Choosing, Frames, Given, clip_timeline
from refocus_video.integrations.lmms_settings import LmmsSettings, split_arguments
from refocus_video.integrations.messages import (
    LABELS,
    Clip,
    clip_of,
    clip_of_visual,
    prompt_of,
    question_of,
    with_frames,
)
from refocus_video.selectors.uniform import Uniform
from refocus_video.types import Question
from video_clips import HEIGHT, WIDTH, number_of, write_clip

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "video", "url": "a.mp4", "start_time": None, "end_time": None},
            {"type": "image", "url": "a.png"},
            {"type": "video", "url": "b.mp4", "start_time": 2, "end_time": 4.5},
            {"type": "text", "text": "Which one?"},
        ],
    },
]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames, the k-th at k²/200 seconds."""
    return write_clip(tmp_path_factory.mktemp("videos") / "uneven.mp4", [i * i * 5 for i in range(40)])


# Messages


@pytest.mark.parametrize("labels", LABELS)
def test_videos_become_frames_and_all_else_stays(labels: str) -> None:
    before = repr(MESSAGES)
    clips: list[Clip] = []

    def frames_of(clip: Clip) -> list[tuple[float, str]]:
        clips.append(clip)
        return [(71.25, f"{clip.path}-1"), (72.0, f"{clip.path}-2")]

    system, user = with_frames(MESSAGES, frames_of, labels)
    assert repr(MESSAGES) == before
    assert clips == [Clip("a.mp4"), Clip("b.mp4", 2.0, 4.5)]
    assert system == MESSAGES[0]
    pictures = [part["url"] for part in user["content"] if part["type"] == "image"]
    assert pictures == ["a.mp4-1", "a.mp4-2", "a.png", "b.mp4-1", "b.mp4-2"]
    texts = [part["text"] for part in user["content"] if part["type"] == "text"]
    told = {
        "seconds": ["<71.2 seconds>", "<72.0 seconds>"],
        "clock": ["01:11", "01:12"],
        "number": ["Frame1: ", "Frame2: "],
        "none": [],
    }[labels]
    assert texts == [*told, *told, "Which one?"]
    if labels != "none":
        assert [part["type"] for part in user["content"]][:4] == ["text", "image"] * 2


def test_labels_are_those_of_the_settings() -> None:
    assert set(get_args(LmmsSettings.model_fields["time_labels"].annotation)) == set(LABELS)


def test_videos_are_found_in_every_form_and_nothing_else_is_one() -> None:
    assert clip_of({"type": "video", "url": {"url": "a.mp4", "video_start": 1, "video_end": 2}}) == Clip("a.mp4", 1, 2)
    assert clip_of({"type": "video", "url": "file:///a.mp4", "start_time": 0.0}) == Clip("/a.mp4", 0.0, None)
    assert clip_of({"type": "text", "text": "a.mp4"}) is None
    assert clip_of_visual("a.webm") == clip_of_visual({"path": "a.webm"}) == Clip("a.webm")
    assert (
        clip_of_visual("a.JPG") is clip_of_visual({"type": "audio", "url": "a.wav"}) is clip_of_visual(object()) is None
    )
    with pytest.raises(DataError, match="hands over a list, not a path"):
        clip_of({"type": "video", "url": [1, 2]})
    assert prompt_of(MESSAGES) == "Which one?"


def test_the_selector_is_asked_the_question_and_not_the_instructions() -> None:
    doc = {"question": "Why?", "options": ["A. rain", "B. sun"], "query": "How?", "wrong": ["one"], "n": 3}
    prompt = "Select the best answer.\nWhy?\nA. rain\nB. sun"
    assert question_of(doc, prompt) == Question("Why?", ("rain", "sun"))
    assert question_of(doc, prompt, options_from="none") == Question("Why?")
    assert question_of(doc, prompt, question_from="query") == Question("How?", ("rain", "sun"))
    assert question_of(doc, prompt, question_from="prompt") == question_of({"n": 3}, prompt) == Question(prompt)
    assert question_of({"question": "Why?", "choices": ["x", "x", "y"]}, prompt) == Question("Why?", ("x", "y"))
    assert question_of({"question": "Why?", "options": ["x"]}, prompt) == Question("Why?")
    with pytest.raises(DataError, match=r"question_from=n: no text there.*question, options"):
        question_of(doc, prompt, question_from="n")
    with pytest.raises(DataError, match="options_from=wrong: no list"):
        question_of(doc, prompt, options_from="wrong")


# Arguments


def test_arguments_find_their_owner() -> None:
    settings, of_selector, of_model = split_arguments(
        {
            "model": "qwen3_vl",
            "selector": "covered",
            "budget": 8,
            "selector.floor": 2,
            "selector.selector": "{name: topk}",
            "pretrained": "Q",
            "fps": 2,
            "model.model": "gpt",
            "batch_size": "1",
        }
    )
    assert (settings.model, settings.budget, settings.sampling) == ("qwen3_vl", 8, SamplingConfig())
    assert of_selector == {"floor": 2, "selector": {"name": "topk"}}
    assert of_model == {"pretrained": "Q", "fps": 2, "model": "gpt", "batch_size": "1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": "m"}, "name a selector"),
        ({"selector": "uniform"}, "'model'.*required"),
        ({"model": "m", "selector": "uniform", "budget": 0}, "'budget'.*greater"),
        ({"model": "m", "selector": "uniform", "budgett": 8}, "'budgett': is 'budget' meant"),
        ({"model": "m", "selector": "uniform", "on_error": "skip"}, "'on_error'"),
        ({"model": "m", "selections": "f", "selector.seed": 1}, "runs no selector"),
        ({"model": "m", "selector": "x", "selector.seed": "[1"}, "not readable as YAML"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        split_arguments(arguments)


# What is chosen


def _uniform(budget: int = 4, fps: float = 5.0) -> Choosing:
    return Choosing(Uniform(), budget, SamplingConfig(fps=fps), "uniform")


def test_the_frames_shown_are_those_of_the_row_with_the_times_of_the_video(video: Path) -> None:
    frames = Frames(_uniform(), pixels=WIDTH * HEIGHT // 4)
    shown = frames.show(Asked("q", Clip(str(video)), Question("Why?")))
    numbers = [number_of(np.asarray(picture)) for _, picture in shown]
    assert [time for time, _ in shown] == pytest.approx([number**2 / 200 for number in numbers])
    assert len(set(numbers)) == 4
    assert {picture.size for _, picture in shown} == {(WIDTH // 2, HEIGHT // 2)}


def test_a_stretch_of_a_video_has_candidates_of_its_own(video: Path) -> None:
    clip = Clip(str(video), 2.0, 4.0)
    whole, part = (clip_timeline(one, SamplingConfig(fps=4, max_frames=None)) for one in (Clip(str(video)), clip))
    assert 2.0 <= part.times.min() <= part.times.max() <= 4.0
    assert 7 <= len(part) <= 9
    assert len(whole) > 3 * len(part)
    for time, _ in Frames(_uniform()).show(Asked("q", clip, Question("Why?"))):
        assert 2.0 <= time <= 4.0
    frames = Frames(_uniform())
    frames.choose([Asked("q", Clip(str(video), 100.0), Question("Why?"))])
    assert "no frame lies in this stretch" in str(frames.failure("q"))


class Counting:
    """A source that remembers what it was asked."""

    def __init__(self, inner: Choosing) -> None:
        self.inner, self.budget, self.manifest = inner, inner.budget, inner.manifest
        self.calls: list[tuple[str, list[str]]] = []

    def choose(self, clip: Clip, asked: Sequence[Asked]) -> list[Chosen]:
        self.calls.append((clip.path, [one.id for one in asked]))
        return self.inner.choose(clip, asked)


def test_a_video_is_looked_at_once_and_every_question_chosen_once(video: Path) -> None:
    source = Counting(_uniform())
    frames, clip, other = Frames(source), Clip(str(video)), Clip("none.mp4")
    why, who = Question("Why?"), Question("Who?")
    asked = [
        Asked("1", clip, why),
        Asked("2", other, why),
        Asked("3", clip, who),
        Asked("4", clip, why),
        Asked("1", other, why),
    ]
    ticks: list[int] = []
    frames.choose(asked, lambda: ticks.append(1))
    frames.choose(asked)
    for one in asked:
        frames.show(one)
    assert source.calls == [(clip.path, ["1", "3"]), (other.path, ["2"])]
    assert len(ticks) == 3
    assert [frames.failure(id) is None for id in "1234"] == [False, False, True, True]
    assert sum(frames.failures().values()) == 2
    assert "4 questions about videos, 4 frames a video; 2 without frames" in frames.report()[0]


def test_a_short_video_shows_all_its_candidates_and_is_counted(video: Path) -> None:
    frames = Frames(_uniform(budget=32, fps=1))
    assert len(frames.show(Asked("q", Clip(str(video)), Question("Why?")))) == 7
    assert "1 of 1 choices have fewer frames" in frames.report()[1]


def test_what_was_saved_is_not_chosen_again_but_what_failed_is(video: Path, tmp_path: Path) -> None:
    path, late = tmp_path / "saved.jsonl", tmp_path / "late.mp4"
    asked = [
        Asked("1", Clip(str(video)), Question("Why?")),
        Asked("1", Clip(str(late)), Question("Why?")),
        Asked("2", Clip(str(video)), Question("Who?")),
    ]
    Frames(_uniform(), save=path).choose(asked)
    rows = read_selections(path).rows
    assert [(row.id, bool(row.error)) for row in rows] == [("1", False), ("2", False), ("1#2", True)]
    late.write_bytes(video.read_bytes())
    path.write_bytes(path.read_bytes() + b'{"id": "torn')
    source = Counting(_uniform())
    again = Frames(source, save=path)
    again.choose(asked)
    assert source.calls == [(str(late), ["1#2"])]
    assert [row.error for row in read_selections(path).rows] == [None] * 3
    assert again.show(asked[0])[0][0] == Frames(_uniform()).show(asked[0])[0][0]
    with pytest.raises(ConfigError, match=r"saved\.jsonl was made with .*'budget': 4.* not .*'budget': 5"):
        Frames(_uniform(budget=5), save=path)


# Selection files


def _row(id: str, frames: list[int], times: list[float] | None = None, **changes: Any) -> Chosen:
    values: dict[str, Any] = {
        "video": "elsewhere/uneven.mkv",
        "question": "Why?",
        "selector": "hand",
        "budget": 2,
    } | changes
    return Chosen(id=id, frame_indices=frames, times=times or [], **values)


def _given(folder: Path, *rows: Chosen, selector: str | None = None) -> Given:
    write_selections(folder / "given.jsonl", {}, rows)
    return Given(folder / "given.jsonl", 2, selector)


def _seen(source: Given, asked: Asked) -> tuple[list[int], str | None]:
    frames = Frames(source)
    return [number_of(np.asarray(picture)) for _, picture in frames.show(asked)], frames.failure(asked.id)


def test_rows_are_found_by_id_and_else_by_video_and_question(video: Path, tmp_path: Path) -> None:
    clip = Clip(str(video))
    source = _given(
        tmp_path, _row("1", [3, 5]), _row("2", [7, 9], question="Who?"), _row("3", [1, 2], video="other.mp4"),
        _row("4", [], question="When?", error="it was dark"),
    )  # fmt: skip
    assert _seen(source, Asked("1", clip, Question("not this"))) == ([3, 5], None)
    assert _seen(source, Asked("x", clip, Question("Look. Who? Say a letter."))) == ([7, 9], None)
    assert _seen(source, Asked("3", clip, Question("Why?"))) == ([3, 5], None)
    for asked, reason in [
        (Asked("x", clip, Question("Where?")), "given.jsonl has no row for this question about uneven"),
        (Asked("x", clip, Question("Why? Who?")), "given.jsonl has 2 rows for this question about uneven"),
        (Asked("4", clip, Question("When?")), "it was dark"),
    ]:
        assert _seen(source, asked) == ([], reason)


def test_a_row_of_another_video_is_refused(video: Path, tmp_path: Path) -> None:
    asked = Asked("1", Clip(str(video)), Question("Why?"))
    assert _seen(_given(tmp_path, _row("1", [20, 30], [2.0, 4.5])), asked) == ([20, 30], None)
    for row, said in [
        (_row("1", [20, 30], [2.0, 4.2]), "has frame 30 at 4.20 s; in .* it is at 4.50 s"),
        (_row("1", [20, 40]), r"names frame 40; .* has frames 0\.\.39"),
    ]:
        frames = Frames(_given(tmp_path, row))
        assert frames.show(asked) == []
        assert re.search(said, str(frames.failure("1")))
    frames = Frames(_given(tmp_path, _row("1", [20, 30])))
    assert frames.show(Asked("1", Clip(str(video), 0.0, 3.0), Question("Why?"))) == []
    assert "outside of" in str(frames.failure("1"))


def test_a_file_without_what_is_asked_for_is_refused(tmp_path: Path) -> None:
    rows = [_row("1", [1, 2]), _row("1", [3, 4], selector="foot"), _row("1", [3], selector="foot", budget=1)]
    with pytest.raises(DataError, match="several selectors; name one of them: hand, foot"):
        _given(tmp_path, *rows)
    with pytest.raises(DataError, match="no frames by nose at 2; it has foot at 1, foot at 2, hand at 2"):
        _given(tmp_path, *rows, selector="nose")


# What is handed on: the model itself, with stand-ins for lmms-eval


@dataclass
class Request:
    """As lmms-eval's."""

    arguments: tuple[Any, ...]
    resps: list[Any] = field(default_factory=list)

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


class Inner:
    """A model that answers with what it is shown; like some of lmms-eval's, it calls the first function for all records."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.task_dict: dict[str, Any] = {}
        self._rank, self._world_size, self.batch_size = 0, 1, 4
        self.cleaned, self.hook = False, None

    rank = property(lambda self: self._rank)
    world_size = property(lambda self: self._world_size)

    def generate_until(self, requests: list[Request]) -> list[str]:
        self.got = requests
        function = requests[0].args[self.arguments["at"]]
        return [
            repr(function(self.task_dict[task][split][number]))
            for *_, number, task, split in (r.args for r in requests)
        ]

    def generate_until_multi_round(self, requests: list[Request]) -> list[list[str]]:
        answers = []
        for request in requests:
            _, function, _, number, task, split = request.args
            doc = self.task_dict[task][split][number]
            rounds = [function(doc, round_idx=i) for i in (1, 2)]
            answers.append([repr(one) for one in rounds])
        return answers

    def loglikelihood(self, requests: list[Request]) -> list[tuple[float, bool]]:
        return [(0.5, True) for _ in requests]

    def set_cache_hook(self, hook: Any) -> None:
        self.hook = hook

    def clean(self) -> None:
        self.cleaned = True


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plug-in's module, imported over stand-ins; and what it logged."""
    logged: list[str] = []
    kinds = {"chat": "chat", "simple": "simple", "refocus": "chat"}
    registry = SimpleNamespace(
        list_model_names=lambda: list(kinds),
        resolve=lambda name, force_simple=False: SimpleNamespace(model_id=name, model_type=kinds[name]),
        get_model_class=lambda name, force_simple: Inner,
    )
    base = type("lmms", (), {"rank": property(lambda s: s._rank), "world_size": property(lambda s: s._world_size)})
    logger = SimpleNamespace(info=logged.append, warning=logged.append)
    modules: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": base},
        "lmms_eval.models": {"MODEL_REGISTRY_V2": registry},
        "loguru": {"logger": logger},
    }
    for name, values in modules.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "refocus_video.integrations.lmms_eval", raising=False)
    import refocus_video.integrations.lmms_eval as made

    yield SimpleNamespace(Refocus=made.Refocus, RefocusSimple=made.RefocusSimple, logged=logged)
    sys.modules.pop("refocus_video.integrations.lmms_eval", None)


ARGUMENTS: dict[str, Any] = {"model": "chat", "selector": "uniform", "budget": 3, "at": 1, "on_error": "count"}


def _docs(video: Path) -> list[dict[str, Any]]:
    missing = str(video.with_name("missing.mp4"))
    return [
        {"question": "Why?", "video": str(video)},
        {"question": "Who?", "video": missing},
        {"question": "When?", "video": None},
        {"question": "Where?", "video": str(video)},
    ]


def _messages(doc: dict[str, Any], round_idx: int = 0) -> Any:
    shown = [{"type": "video", "url": doc["video"]}] if doc["video"] else []
    messages = [{"role": "user", "content": [*shown, {"type": "text", "text": f"{doc['question']} {round_idx}"}]}]
    return messages if not round_idx else (messages if round_idx == 1 else None, round_idx == 2, ["before"], {})


def _chat_requests(model: Any, docs: list[dict[str, Any]]) -> list[Request]:
    model.task_dict["task"] = {"test": docs}
    return [Request(("", _messages, {}, number, "task", "test")) for number in range(len(docs))]


def test_every_question_keeps_its_place_and_its_own_frames(plugin: Any, video: Path) -> None:
    model = plugin.Refocus(**ARGUMENTS)
    requests = _chat_requests(model, _docs(video))
    why, who, when, where = model.generate_until(requests)
    for answer, text in ((why, "Why? 0"), (where, "Where? 0")):
        assert answer.count("'image'") == answer.count(" seconds>") == 3
        assert text in answer
        assert "'video'" not in answer
    assert who == ""
    assert "'image'" not in when
    assert "When? 0" in when
    assert [request.args[1] for request in requests] == [_messages] * 4
    assert len(model.inner.got) == 3
    model.clean()
    assert model.inner.cleaned
    report = plugin.logged[-1]
    assert "3 questions about videos, 3 frames a video; 1 without frames" in report
    assert "missing.mp4" in report
    assert "requests without a video, handed on as they are: 1" in report


def test_a_picture_that_cannot_be_read_is_found_out_late_and_counted_all_the_same(
    plugin: Any, video: Path, tmp_path: Path
) -> None:
    write_selections(tmp_path / "given.jsonl", {}, [_row("0", [1, 99]), _row("1", [1, 2], question="Where?")])
    model = plugin.Refocus(**ARGUMENTS | {"selector": None, "selections": tmp_path / "given.jsonl", "budget": 2})
    docs = [_docs(video)[0], _docs(video)[3]]
    first, second = model.generate_until(_chat_requests(model, docs))
    assert first == ""
    assert second.count("'image'") == 2
    assert "names frame 99" in str(model.frames.failure("task/test/0"))


def test_the_run_ends_before_the_model_starts_and_what_was_chosen_is_kept(
    plugin: Any, video: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved.jsonl"
    model = plugin.Refocus(**ARGUMENTS | {"on_error": "raise", "save_selections": saved})
    with pytest.raises(
        DataError, match=r"without frames: 1 of 3; the first is task/test/1: .*missing\.mp4.*on_error=count"
    ):
        model.generate_until(_chat_requests(model, _docs(video)))
    assert not hasattr(model.inner, "got")
    assert [row.error is None for row in read_selections(saved).rows] == [True, True, False]
    write_selections(tmp_path / "given.jsonl", {}, [_row("0", [1, 99])])
    given = {"selector": None, "selections": tmp_path / "given.jsonl", "budget": 2, "on_error": "raise"}
    model = plugin.Refocus(**ARGUMENTS | given)
    with pytest.raises(DataError, match=r"task/test/0: .* names frame 99"):
        model.generate_until(_chat_requests(model, _docs(video)[:1]))


def test_rounds_are_handed_on(plugin: Any, video: Path) -> None:
    model = plugin.Refocus(**ARGUMENTS)
    docs = _docs(video)
    [[first, second]] = model.generate_until_multi_round(_chat_requests(model, docs[:1]))
    assert first.count("'image'") == 3
    assert "Why? 1" in first
    assert second == "(None, True, ['before'], {})"
    with pytest.raises(DataError, match=r"questions without frames: 1 of 3; the first is task/test/1: .*missing\.mp4"):
        model.generate_until_multi_round(_chat_requests(model, docs))


def test_simple_models_get_pictures(plugin: Any, video: Path) -> None:
    model = plugin.RefocusSimple(**ARGUMENTS | {"model": "simple", "at": 2})
    docs = [{"number": i, "video": str(video)} for i in range(2)]
    model.task_dict["task"] = {"test": docs}

    def visual(doc: dict[str, Any]) -> list[Any]:
        return ["a.png", doc["video"]]

    def request(*before: Any) -> list[Request]:
        return [Request((f"Question {i}", *before, visual, i, "task", "test")) for i in range(2)]

    answers = model.generate_until(request({}))
    assert [answer.count("PIL.Image") for answer in answers] == [3, 3]
    assert all("a.png" in answer for answer in answers)
    assert {question.text for _, question in model.frames._rows} == {"Question 0", "Question 1"}
    assert model.loglikelihood([*request("red"), Request(("", "red"))]) == [(0.5, True)] * 3


def test_all_else_is_asked_of_the_inner_model(plugin: Any) -> None:
    model = plugin.Refocus(**ARGUMENTS, batch_size=1, device="cpu")
    assert model.inner.arguments == {"at": 1, "batch_size": 1, "device": "cpu"}
    assert model.batch_size == 4
    assert not hasattr(model, "accelerator")
    model._rank, model._world_size = 2, 3
    assert (model.rank, model.world_size, model.inner.rank, model.inner.world_size) == (2, 3, 2, 3)
    model.task_dict["t"] = 1
    assert model.inner.task_dict == {"t": 1}
    model.set_cache_hook("hook")
    assert model.inner.hook == "hook"


@pytest.mark.parametrize(
    ("simple", "name", "said"),
    [
        (False, "nobody", "model=nobody: lmms-eval has no such model"),
        (False, "refocus", "model=refocus: lmms-eval has no such model"),
        (False, "simple", "simple is a simple model of lmms-eval; add --force_simple"),
        (True, "chat", "chat is a chat model of lmms-eval; leave out --force_simple"),
    ],
)
def test_a_model_that_cannot_answer_is_refused(plugin: Any, simple: bool, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        (plugin.RefocusSimple if simple else plugin.Refocus)(**ARGUMENTS | {"model": name})


def test_the_entry_point_imports_nothing_heavy() -> None:
    code = (
        "import sys, refocus_video.integrations.lmms_plugin\n"
        "sys.exit(' '.join(sorted({'torch', 'numpy', 'pydantic', 'lmms_eval'} & set(sys.modules))) or None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
