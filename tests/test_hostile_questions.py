"""Question files as real dumps are: what cannot be worked with is one line with file, line and field, before any work."""

import json
from pathlib import Path
from typing import Any

import pytest

from refocus_video.cli.data import run_convert
from refocus_video.config import Stage
from refocus_video.data.checked_json import MAX_DEPTH
from refocus_video.data.examples import MAX_LINE, MAX_TEXT, read_examples
from refocus_video.errors import DataError
from refocus_video.pipeline import none_usable
from refocus_video.train.curriculum import check_stages
from video_clips import SHARED

GOOD = '{"id": "a", "video": "v.mp4", "question": "Which?", "options": ["disc", "ring"], "answer": 0'
ROWS = [
    (r', "id": "a\ud83d"', "id", r"half a character \(\\ud83d"),
    (r', "video": "\udc00.mp4"', "video", "half a character"),
    (r', "question": "cut \ud83d here?"', "question", "at position 4"),
    (r', "options": ["disc\udc00", "ring"]', "options", "half a character"),
    (r', "metadata": {"\udc00": 1}', "metadata", "half a character"),
    (r', "video": "a\u0000.mp4"', "video", "NUL"),
    (f', "metadata": {{"n": {"9" * 5000}}}', "metadata", "a whole number of 5000 digits"),
    (f', "evidence": [[0, 1{"0" * 400}]]', "evidence", "a whole number of 401 digits"),
    (', "evidence": [[0, Infinity]]', "evidence", "inf is no number that JSON can hold"),
    (', "evidence": [[0, 1e999]]', "evidence", "inf is no number"),
    (', "metadata": {"x": [NaN]}', "metadata", "nan is no number"),
    (f', "metadata": {"[" * 20_000}{"]" * 20_000}', "metadata", f"nested more than {MAX_DEPTH} deep"),
    (f', "metadata": {{"x": {"[" * 70}{"]" * 70}}}', "metadata", f"nested more than {MAX_DEPTH} deep"),
    (f', "question": "{"x" * (MAX_TEXT + 1)}"', "question", "20,001 characters; at most 20,000"),
    (f', "options": ["x", "{"y" * (MAX_TEXT + 1)}"]', "options", "20,001 characters"),
    (f', "answer": "{"y" * 90_000}"', "answer", "found 'yyy"),
]


@pytest.mark.parametrize(("more", "field", "said"), ROWS)
def test_what_cannot_be_worked_with_is_one_short_line(more: str, field: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f"{GOOD}}}\n{GOOD}{more}}}\n", encoding="utf-8")
    with pytest.raises(DataError, match=said) as caught:
        read_examples(path)
    message = str(caught.value)
    assert f"{path}, line 2, field {field!r}" in message
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    message.encode()


def test_a_line_without_end_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f'{GOOD}, "metadata": {{"x": "{"x" * MAX_LINE}"}}}}', encoding="utf-8")
    with pytest.raises(DataError, match="line 1: more than 10,000,000 bytes"):
        read_examples(path)


def test_a_parquet_file_by_another_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b"PAR1\x15\x04\n\xff")
    with pytest.raises(DataError, match="a Parquet file"):
        read_examples(path)
    (tmp_path / "v.mp4").touch()
    with pytest.raises(DataError, match=r"a Parquet file by another name; call it q\.parquet"):
        run_convert("jsonl", path, tmp_path, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    "path", sorted((SHARED.parent / "cases/questions").glob("*.jsonl")), ids=lambda path: path.name
)
def test_the_collected_cases_are_one_line(path: Path) -> None:
    with pytest.raises(DataError, match=rf"{path.name}, line \d, field '\w+': "):
        read_examples(path)


def _converted(text: str, name: str, folder: Path) -> list[dict[str, Any]]:
    (folder / "clips").mkdir(exist_ok=True)
    (folder / "clips/v.mp4").touch()  # converting looks for it and no further
    (folder / name).write_text(text, encoding="utf-8")
    run_convert(name.partition(".")[2], folder / name, folder / "clips", folder / "out.jsonl")
    return [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_an_empty_option_cell_shifts_no_answer(separator: str, tmp_path: Path) -> None:
    rows = ["id,video,question,option0,option1,option2,option3,answer"]
    answers = ("2", "2.0", "C", "c", "green")
    rows += [f"e{number},v,which,red,,green,blue,{answer}" for number, answer in enumerate(answers)]
    found = _converted("\n".join(rows).replace(",", separator), "mine.csv", tmp_path)
    assert [row["options"][row["answer"]] for row in found] == ["green"] * len(answers)
    with pytest.raises(DataError, match="field 'answer': expected one of the 3 options that are not empty, found 'B'"):
        _converted(f"{rows[0]}\ne,v,which,red,,green,blue,B", "other.csv", tmp_path)


@pytest.mark.parametrize("answer", [1, 1.0, "b", "B", "y", "B. y"])
def test_a_jsonl_file_of_ones_own_is_read_as_it_is_meant(answer: Any, tmp_path: Path) -> None:
    row = {"id": 7, "video": "v", "question": "which", "options": ["A. x", "B. y"], "answer": answer, "source": "me"}
    (found,) = _converted(json.dumps(row), "mine.jsonl", tmp_path)
    assert (found["id"], found["answer"], found["metadata"]) == ("7", 1, {"source": "me"})


def test_stages_that_the_questions_lack_are_named_by_their_setting() -> None:
    stages = (Stage(until=0.5, budgets=(1,), question_types={"one-hop": 1}), Stage(until=1.0, budgets=(2,)))
    check_stages(stages, {"one-hop", "two-hop"})
    with pytest.raises(DataError, match=r"train\.stages asks for .* 'one-hop', but .* none; .*--set 'train\.stages="):
        check_stages(stages, {""})


def test_a_file_of_which_the_filter_kept_none_says_so(tmp_path: Path) -> None:
    (tmp_path / "kept.jsonl").touch()
    (tmp_path / "filter.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="the filter kept none of its questions"):
        read_examples(tmp_path / "kept.jsonl")


def test_missing_videos_say_where_a_relative_path_begins() -> None:
    assert "counts from that file's folder" in str(none_usable({"a": "no video file at clips/a.mp4"}))
    assert "folder" not in str(none_usable({"a": "a.mp4 is damaged"}))
