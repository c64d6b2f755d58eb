"""``refocus quality``: fixed denominators, what is missing, what may not be compared."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refocus_video.cli.main import app
from refocus_video.data.examples import parse_example
from refocus_video.data.selections import Chosen, write_selections
from refocus_video.errors import DataError
from refocus_video.evaluate import quality
from refocus_video.evaluate.measure import COLUMNS, run_quality, stated_seconds

QUESTIONS: list[dict[str, Any]] = [
    {"id": "a1", "video": "a.mp4", "evidence": [[0, 2], [20, 22]], "metadata": {"duration": 100}},
    {"id": "a2", "video": "a.mp4", "evidence": [[50, 60]], "metadata": {"duration": 100}},
    {"id": "b1", "video": "b.mp4", "evidence": [[5, 6]]},
    {"id": "c1", "video": "c.mp4"},
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"question": "Who?", "options": ["A", "B"], "answer": 0} | row for row in QUESTIONS]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def _chosen(id: str, times: list[float], selector: str = "mine", **more: Any) -> Chosen:
    fields: dict[str, Any] = {"video": f"{id[0]}.mp4", "question": "Who?", "budget": 2, **more}
    fields.setdefault("frame_indices", [int(10 * t) for t in times])
    return Chosen(id=id, selector=selector, times=times, **fields)


def _file(folder: Path, *rows: Chosen, name: str = "s.jsonl") -> Path:
    write_selections(folder / name, {}, rows)
    return folder / name


def test_every_question_counts_and_what_is_missing_is_told(tmp_path: Path, questions: Path) -> None:
    path = _file(
        tmp_path,
        _chosen("a1", [1.0, 30.0]),
        _chosen("b1", [], error="cannot be opened"),
        _chosen("c1", [4.0, 8.0]),
        _chosen("zz", [1.0, 2.0]),
    )
    numbers, rows = run_quality([path], questions)
    (line,) = numbers["rows"]
    assert (line["n"], numbers["with_evidence"], numbers["other_questions"]) == (4, 3, 1)
    assert line["missing"] == {"no row": 1, "nothing chosen": 1}
    # a1 alone finds anything: 1 of 2 frames, 1 of 2 scenes; a2 and b1 count as 0.
    assert line["hit"] == pytest.approx(1 / 3)
    assert (line["precision"], line["scene_hit_rate"]) == (pytest.approx(0.5 / 3), pytest.approx(0.5 / 3))
    first = next(row for row in rows if row["id"] == "a1")
    assert line["ukss"] == pytest.approx((first["ukss"] * 0.01 * 0.01) ** (1 / 3))
    assert line["coverage"] == pytest.approx(((6 + 10) / 100 + 0 + 0 + 1) / 4)
    assert line["crowding"] == 0
    assert numbers["videos_of_stated_length"] == 1 and numbers["videos_of_last_known_time"] == 2


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ({"duration": 100}, 100.0),
        ({"duration_s": 2.5}, 2.5),
        ({"duration": "short", "duration_s": 60}, 60.0),  # a name of a group, and seconds
        ({"duration": 100, "duration_s": 60}, 100.0),
        ({"duration": "long", "duration_s": -1}, None),
        ({}, None),
    ],
)
def test_the_stated_length_of_a_video(metadata: dict[str, Any], seconds: float | None) -> None:
    row = QUESTIONS[3] | {"question": "Who?", "options": ["A", "B"], "answer": 0, "metadata": metadata}
    assert stated_seconds(parse_example(row, "here", Path())) == seconds


def test_no_number_is_nan_and_intervals_hold_the_mean(tmp_path: Path, questions: Path) -> None:
    path = _file(tmp_path, *(_chosen(id, [5.0, 5.5, 51.0]) for id in ("a1", "a2", "b1", "c1")))
    numbers, rows = run_quality([path], questions)
    line = numbers["rows"][0]
    values = [value for row in [line, *rows] for value in row.values() if isinstance(value, float)]
    assert values and all(map(math.isfinite, values))
    for name in ("precision", "ukss", "coverage"):
        assert line[f"{name}_low"] <= line[name] <= line[f"{name}_high"]
    json.dumps(numbers, allow_nan=False)


def test_two_selectors_are_compared_on_the_questions_both_chose_for(tmp_path: Path, questions: Path) -> None:
    mine = _file(tmp_path, _chosen("a1", [1.0, 30.0]), _chosen("a2", [1.0, 30.0]))
    other = _file(tmp_path, _chosen("a1", [1.0, 90.0], "other"), name="o.jsonl")
    (pair,) = run_quality([mine, other], questions)[0]["pairs"]
    assert (pair["first"], pair["second"], pair["n"]) == ("mine", "other", 1)
    assert pair["overlap"] == pytest.approx(1 / 3)
    assert pair["divergence"] == pytest.approx(math.log(2) / 2)


def test_evidence_of_another_file_and_times_without_frames(tmp_path: Path) -> None:
    (tmp_path / "kfs.csv").write_text(
        "id,segment_id,scene_id,start,end\nq_0,0,0,0:01,0:01\nq_0,1,1,0:09,0:10\nq_1,0,0,0:04,0:05\n"
    )
    path = _file(tmp_path, _chosen("q_0", [1.5, 9.0, 20.0], frame_indices=[]))
    numbers, _ = run_quality([path], None, tmp_path / "kfs.csv")
    line = numbers["rows"][0]
    assert (line["n"], line["missing"]) == (2, {"no row": 1})
    assert line["precision"] == pytest.approx(1 / 3)
    assert line["scene_hit_rate"] == pytest.approx(0.5)
    # n = (1, 1) is even: balance 1; balanced recall 1; the other question counts as the floor.
    assert line["ukss"] == pytest.approx(math.sqrt((2 / 3) ** (1 / 3) * quality.FLOOR))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([_chosen("zz", [1.0, 2.0])], "none of 1 selections is for one of the 4 questions, such as 'a1'"),
        ([_chosen("a1", [], frame_indices=[1, 2])], "no selection has times; import them again"),
        (
            [_chosen("a1", [1.0, 2.0], pool="x", candidates=9), _chosen("a1", [1.0, 2.0], "other", pool="y", candidates=8)],
            "select again with the same sampling",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(tmp_path: Path, questions: Path, rows: list[Chosen], said: str) -> None:
    with pytest.raises(DataError, match=said):
        run_quality([_file(tmp_path, *rows)], questions)


def test_pools_are_compared_by_question_however_the_video_is_written(tmp_path: Path, questions: Path) -> None:
    mine = _file(tmp_path, _chosen("a1", [1.0, 2.0], pool="x", candidates=9))
    other = _file(tmp_path, _chosen("a1", [1.0, 2.0], "o", pool="y", candidates=8, video="/else/a.mp4"), name="o.jsonl")
    with pytest.raises(DataError, match="select again with the same sampling"):
        run_quality([mine, other], questions)
    with pytest.raises(DataError, match="is in two files"):
        run_quality([mine, mine], questions)
    with pytest.raises(DataError, match="give --questions, or --evidence"):
        run_quality([mine], None)


def test_the_command_prints_tables_and_writes_a_row_a_question(tmp_path: Path, questions: Path) -> None:
    path = _file(tmp_path, _chosen("a1", [1.0, 30.0]), _chosen("a1", [30.0, 31.0], "other"))
    command = ["quality", str(path), "--questions", str(questions), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "UKSS" in result.output and "mine, other" in result.output
    assert "mine, 2 frames, of 4 questions: 3 no row" in result.output
    assert "2 choices do not say among which frames they were made" in result.output
    with (tmp_path / "out" / "quality.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 8
    numbers = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert numbers == json.loads((tmp_path / "out" / "quality.json").read_text())
