"""Question files: what is written comes back, and every mistake is named by file, line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from refocus_video.data.examples import fingerprint, read_examples, with_options, write_examples
from refocus_video.errors import DataError
from refocus_video.types import Example, Question, Span

GOOD: dict[str, Any] = {"id": "a", "video": "v.mp4", "question": "Which?", "options": ["red", "blue"], "answer": 1}


def _write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    examples = [
        Example(
            id="plain",
            video=str(tmp_path / "clips" / "ein Tag.mp4"),
            question=Question("Wie heißt 猫?", ("eine Katze", "猫\u2028zwei Zeilen\x85drei", "no\nnewline")),
            answer=2,
            evidence=(Span(0.125, 3.5), Span(7.0, 7.0)),
            question_type="one-hop",
            metadata={"kind": "x", "events": [{"start_s": 1.5}]},
        ),
        Example("bare", str(tmp_path / "b.mp4"), Question("?", ("x", "y")), 0),
        Example("open", str(tmp_path / "b.mp4"), Question("What colour?"), 0, accepted=("red", "crimson")),
    ]
    path = tmp_path / "questions.jsonl"
    write_examples(path, examples)
    assert read_examples(path) == examples
    assert len(path.read_text(encoding="utf-8").split("\n")) == 4  # one line each, and the last one ends
    first = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert first["video"] == str(Path("clips", "ein Tag.mp4"))  # the folder can be moved


def test_videos_are_found_beside_the_question_file(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    path = _write(folder / "q.jsonl", GOOD | {"video": "clips/v.mp4"}, GOOD | {"id": "b", "video": "/data/v.mp4"})
    assert [e.video for e in read_examples(path)] == [str(folder / "clips" / "v.mp4"), "/data/v.mp4"]


def test_a_video_of_the_working_directory_is_still_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_examples(Path("elsewhere/q.jsonl"), [Example("a", "clips/v.mp4", Question("?", ("x", "y")), 0)])
    assert read_examples(Path("elsewhere/q.jsonl"))[0].video == str(tmp_path / "clips" / "v.mp4")


@pytest.mark.parametrize(
    ("answer", "options", "position"),
    [
        (0, ["red", "blue"], 0),
        (1, ["red", "blue"], 1),
        ("B", ["red", "blue"], 1),
        ("red", ["red", "blue"], 0),
        ("A", ["B", "A"], 1),  # an option's own text comes before its letter
        ("D", ["w", "x", "y", "z"], 3),
    ],
)
def test_an_answer_is_a_position_a_letter_or_the_text(
    tmp_path: Path, answer: Any, options: list[str], position: int
) -> None:
    path = _write(tmp_path / "q.jsonl", GOOD | {"answer": answer, "options": options})
    assert read_examples(path)[0].answer == position


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("answer", 2),
        ("answer", -1),
        ("answer", True),
        ("answer", None),
        ("answer", 1.0),
        ("answer", "C"),
        ("answer", "b"),
        ("answer", "AB"),
        ("answer", ""),
        ("answer", "@"),
        ("id", ""),
        ("id", 7),
        ("video", None),
        ("video", "  "),
        ("question", ""),
        ("question", ["Which?"]),
        ("options", ["red"]),
        ("options", []),
        ("options", None),
        ("options", "red"),
        ("options", ["red", 3]),
        ("options", ["red", " "]),
        ("options", ["red", "blue", "red"]),
        ("evidence", "0-3"),
        ("evidence", 0),
        ("evidence", {"start_s": 1}),
        ("evidence", [1.0, 2.0]),
        ("evidence", [[1.0]]),
        ("evidence", [[1.0, "2"]]),
        ("evidence", [[False, True]]),
        ("evidence", [[2.0, 1.0]]),
        ("evidence", [[0.0, 1.0], [0.0, float("nan")]]),
        ("question_type", 3),
        ("metadata", [1]),
        ("metadata", "x"),
        ("anser", 1),
    ],
)
def test_a_wrong_field_is_named_with_its_file_and_line(tmp_path: Path, field: str, value: Any) -> None:
    path = _write(tmp_path / "q.jsonl", GOOD, "", GOOD | {"id": "b", field: value})
    with pytest.raises(DataError) as caught:
        read_examples(path)
    message = str(caught.value)
    assert f"{path}, line 3, field {field!r}" in message
    assert "\n" not in message


@pytest.mark.parametrize("field", ["id", "video", "question", "options", "answer"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = _write(tmp_path / "q.jsonl", {k: v for k, v in GOOD.items() if k != field})
    with pytest.raises(DataError, match=f"line 1, field '{field}'"):
        read_examples(path)


OPEN: dict[str, Any] = {"id": "o", "video": "v.mp4", "question": "What colour?"}


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ({"answer": "red"}, ("red",)),
        ({"answers": ["red", "crimson"]}, ("red", "crimson")),
        ({"answers": ["C"]}, ("C",)),  # a vitamin, say; as "answer" it would be taken for a forgotten list of options
    ],
)
def test_an_open_ended_question_has_answers_in_words(
    tmp_path: Path, fields: dict[str, Any], accepted: tuple[str, ...]
) -> None:
    example = read_examples(_write(tmp_path / "q.jsonl", OPEN | fields))[0]
    assert (example.accepted, example.texts, example.answer, example.question.options) == (accepted, accepted, 0, ())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"answer": "C"}, "options"),
        ({"answer": 1}, "options"),
        ({"answer": " "}, "answer"),
        ({}, "answer"),
        ({"answers": []}, "answers"),
        ({"answers": "red"}, "answers"),
        ({"answers": ["red", "red"]}, "answers"),
        ({"answers": ["red"], "answer": "red"}, "answers"),
        ({"answers": ["red"], "options": ["red", "blue"]}, "answers"),
    ],
)
def test_an_open_ended_question_without_a_clear_answer_is_named(
    tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(DataError, match=f"line 1, field '{field}'"):
        read_examples(_write(tmp_path / "q.jsonl", OPEN | fields))


def test_an_example_has_options_or_accepted_answers() -> None:
    with pytest.raises(DataError, match="needs either options or accepted answers"):
        Example("a", "v.mp4", Question("?", ("x", "y")), 0, accepted=("x",))
    with pytest.raises(DataError, match="needs either options or accepted answers"):
        Example("a", "v.mp4", Question("?"), 0)
    with pytest.raises(DataError, match=r"one of its 1 accepted answers \(0\.\.0\), found 1"):
        Example("a", "v.mp4", Question("?"), 1, accepted=("x",))


def test_what_compares_options_says_so_of_an_open_ended_question() -> None:
    closed = Example("closed", "v.mp4", Question("?", ("x", "y")), 0)
    assert list(with_options([closed], "the filter")) == [closed]
    with pytest.raises(DataError, match="question 'open' has no options, and the filter compares options"):
        list(with_options([closed, Example("open", "v.mp4", Question("?"), 0, accepted=("x",))], "the filter"))


def test_the_fingerprint_tells_accepted_answers_apart() -> None:
    one, other = (Example("a", "v.mp4", Question("?"), 0, accepted=(text,)) for text in "xy")
    assert fingerprint([one]) != fingerprint([other])
    closed = Example("a", "v.mp4", Question("?", ("x", "y")), 0)
    assert fingerprint([closed]) == "a856501656dbedb8"  # what folders made earlier were named by


def test_optional_fields_may_be_null(tmp_path: Path) -> None:
    path = _write(tmp_path / "q.jsonl", GOOD | {"evidence": None, "question_type": None, "metadata": None})
    example = read_examples(path)[0]
    assert (example.evidence, example.question_type, example.metadata) == ((), "", {})


def test_an_unknown_field_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="field 'choices': unknown; known fields are id, video, question, options"):
        read_examples(_write(tmp_path / "q.jsonl", GOOD | {"choices": []}))


def test_an_id_used_twice_names_both_lines(tmp_path: Path) -> None:
    path = _write(tmp_path / "q.jsonl", GOOD, GOOD | {"id": "b"}, GOOD)
    with pytest.raises(DataError, match=r"line 3, field 'id': 'a' was already used in line 1"):
        read_examples(path)


@pytest.mark.parametrize(("line", "said"), [('{"id": ', "not valid JSON"), ("[1]", "expected a JSON object")])
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = _write(tmp_path / "q.jsonl", GOOD, line)
    with pytest.raises(DataError, match=said) as caught:
        read_examples(path)
    assert f"{path}, line 2" in str(caught.value)


def test_files_that_are_no_question_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    with pytest.raises(DataError, match=r"no question file at .*q\.jsonl"):
        read_examples(path)
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no examples"):
        read_examples(path)
    path.write_bytes('{"id": "é"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not a UTF-8 text file"):
        read_examples(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read_examples(path)[0].id == "a"
