"""Published frame lists: each real format in small, faults counted, nothing of a pickle run."""

import dbm.dumb
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from refocus_video.cli.import_selections import run_import
from refocus_video.cli.main import app
from refocus_video.data.examples import read_examples
from refocus_video.data.selection_formats import SELECTION_FORMATS
from refocus_video.data.selections import Chosen, read_selections
from refocus_video.errors import DataError
from refocus_video.video.reader import VideoReader


@pytest.fixture
def questions(haystack: Path) -> Path:
    return haystack / "validation.jsonl"


@pytest.fixture
def ids(questions: Path) -> list[str]:
    return [example.id for example in read_examples(questions)]


def _import(
    folder: Path, format: str, content: Any, questions: Path | None, **more: Any
) -> tuple[dict[str, Any], list[Chosen]]:
    path = folder / "lists.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return _imported(folder, format, path, questions, **more)


def _imported(
    folder: Path, format: str, path: Path, questions: Path | None, **more: Any
) -> tuple[dict[str, Any], list[Chosen]]:
    settings = {"order": None, "budget": None} | more
    numbers = run_import(format, [path], questions, settings["order"], "theirs", settings["budget"], folder / "s.jsonl")
    return numbers, read_selections(folder / "s.jsonl").rows


# ------------------------------------------------------------------ AKS


def test_lists_in_question_order_get_the_times_of_the_video(tmp_path: Path, questions: Path, ids: list[str]) -> None:
    numbers, rows = _import(tmp_path, "aks", [[0, 8, 20]] * len(ids), questions)
    assert [row.id for row in rows] == ids and numbers["with_times"] == len(ids)
    with VideoReader(rows[0].video) as reader:
        assert rows[0].times == pytest.approx(reader.times[[0, 8, 20]].tolist(), abs=1e-6)
    assert (rows[0].budget, rows[0].selector, rows[0].positions) == (3, "theirs", None)


def test_lists_that_may_have_slipped_are_refused_and_the_benchmarks_own_order_helps(
    tmp_path: Path, questions: Path, ids: list[str]
) -> None:
    with pytest.raises(
        DataError, match=rf"{len(ids) + 1} lists, told by their order alone, for {len(ids)} questions; .*--order"
    ):
        _import(tmp_path, "aks", [[0]] * (len(ids) + 1), questions)
    order = tmp_path / "benchmark.json"
    order.write_text(json.dumps([{"question_id": id} for id in ["gone", *ids]]))
    numbers, rows = _import(tmp_path, "aks", [[9], *([index] for index in range(len(ids)))], questions, order=order)
    assert numbers["other_questions"] == 1
    assert {row.id: row.frame_indices for row in rows} == {id: [index] for index, id in enumerate(ids)}


def test_every_fault_of_a_list_is_counted(tmp_path: Path, questions: Path, ids: list[str]) -> None:
    lists = [[1, 2, 3]] * len(ids)
    lists[:5] = [[3, 1, 2], [1, 1, 2], [], [1, 2, 10**6], [5]]
    numbers, rows = _import(tmp_path, "aks", lists, questions)
    assert [row.frame_indices for row in rows[:5]] == [[1, 2, 3], [1, 2], [], [], [5]]
    assert rows[2].error == "its list is empty"
    assert "frame 1000000 is listed; the video has frames 0.." in str(rows[3].error)
    counted = {key: numbers[key] for key in ("unsorted", "repeated", "repeats", "without_frames", "beyond", "short")}
    assert counted == {"unsorted": 1, "repeated": 1, "repeats": 1, "without_frames": 2, "beyond": 1, "short": 2}
    assert read_selections(tmp_path / "s.jsonl").manifest["counts"]["beyond"] == 1


# ------------------------------------------------------------------ TSPO


def test_a_benchmarks_own_rows_with_floats(tmp_path: Path, questions: Path, ids: list[str]) -> None:
    rows = [{"video_id": "v", "question": "Who?", "id": ids[0], "video_path": "v.mp4", "frame_idx": [0.0, 30.0]}]
    numbers, chosen = _import(tmp_path, "tspo", rows, questions)
    assert chosen[0].frame_indices == [0, 30] and len(chosen[0].times) == 2
    assert numbers["not_listed"] == len(ids) - 1
    more = [
        {"video_name": "count_155.mp4", "question": "How many?", "question_id": "Q680", "frame_idx": [210.0, 240.0]}
    ]
    numbers, chosen = _import(tmp_path, "tspo", more, None)
    assert chosen[0].model_dump(exclude_none=True) == {
        "id": "Q680", "video": "count_155.mp4", "question": "How many?", "selector": "theirs", "budget": 2,
        "frame_indices": [210, 240], "times": [],
    }  # fmt: skip
    assert numbers["with_times"] == 0


# ------------------------------------------------------------------ KFS-Bench


def test_times_become_the_nearest_frames_and_stay_alone_without_the_video(
    tmp_path: Path, questions: Path, ids: list[str]
) -> None:
    content = [{"id": ids[0], "frame_timestamps": [1.02, 3.0, 3.0]}, {"id": ids[1], "frame_timestamps": [1e4]}]
    numbers, rows = _import(tmp_path, "kfs-bench", content, questions)
    with VideoReader(rows[0].video) as reader:
        nearest = [int(np.abs(reader.times - t).argmin()) for t in (1.02, 3.0)]
        assert rows[0].times == pytest.approx(reader.times[nearest].tolist(), abs=1e-6)
        assert numbers["largest_shift_s"] == pytest.approx(np.abs(reader.times[nearest] - [1.02, 3.0]).max())
    assert rows[0].frame_indices == nearest and numbers["repeats"] == 1
    assert "a frame at 10000 s is listed; the video goes from" in str(rows[1].error)
    _, rows = _import(tmp_path, "kfs-bench", content[:1], None)
    assert (rows[0].frame_indices, rows[0].times, rows[0].budget) == ([], [1.02, 3.0], 3)


# ------------------------------------------------------------------ the published ReFoCUS code


def _key(id: str) -> str:
    return json.dumps(["Select the best answer.", {"id": id, "question": "Who?", "video_path": "v.mp4"}])


def _rollouts() -> dict[str, Any]:
    candidates = np.array([[3, 0, 2, 1], [0, 1, 2, 3]], dtype=np.int32)
    return {
        "frame_idx": [0, 10, 20, 30],
        "candidates": candidates,
        "distribution": np.zeros(4, np.float16),
        "rank_logit": None,
    }


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """As ``shelve.open`` writes where neither gdbm nor ndbm is installed."""
    entries = {
        "a": _rollouts(),
        "b": {"frame_idx": [0, 10], "candidates": None},
        "c": np.array([40, 20]),
        "d": _rollouts() | {"candidates": np.asfortranarray(_rollouts()["candidates"].astype(">i8"))},
    }
    with dbm.dumb.open(str(tmp_path / "database.db"), "c") as store:
        for id, value in entries.items():
            store[_key(id).encode()] = pickle.dumps(value, pickle.DEFAULT_PROTOCOL)
    return tmp_path / "database.db"


def test_a_shelve_is_read_in_the_order_picked(shelf: Path, tmp_path: Path) -> None:
    numbers, rows = _imported(tmp_path, "refocus", shelf, None, budget=2)
    assert {row.id: row.frame_indices for row in rows} == {"a": [0, 30], "b": [], "c": [20, 40], "d": [0, 30]}
    assert "too short" in str(rows[1].error)
    assert (numbers["without_frames"], numbers["unsorted"]) == (1, 1)
    _, whole = _imported(tmp_path, "refocus", Path(f"{shelf}.dat"), None)
    assert whole[0].frame_indices == [0, 10, 20, 30]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_arrays_of_every_protocol_that_shelve_has_used_since_python_3_are_read(tmp_path: Path, protocol: int) -> None:
    with dbm.dumb.open(str(tmp_path / "x"), "c") as store:
        store[_key("a").encode()] = pickle.dumps(_rollouts(), protocol)
    assert [entry.frames for entry in SELECTION_FORMATS.load("refocus")(tmp_path / "x")] == [(30, 0, 20, 10)]


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize(
    "payload",
    [
        lambda path: pickle.dumps({"frame_idx": [0], "candidates": _Evil(path)}),
        lambda path: pickle.dumps(np.array([_Evil(path)], dtype=object)),
        lambda _: b"cos\nsystem\n(S'true'\ntR.",
        lambda _: b"cbuiltins\neval\n(S'1'\ntR.",
        lambda _: pickle.dumps(np.array(["a"])),
        lambda _: pickle.dumps(3),
        lambda _: pickle.dumps(_rollouts())[:-9],
        lambda _: b"",
    ],
)
def test_nothing_that_a_pickle_asks_for_is_run(tmp_path: Path, payload: Any) -> None:
    with dbm.dumb.open(str(tmp_path / "x"), "c") as store:
        store[_key("a").encode()] = payload(tmp_path / "written")
    with pytest.raises(DataError, match="x, entry 1"):
        list(SELECTION_FORMATS.load("refocus")(tmp_path / "x"))
    assert not (tmp_path / "written").exists()


def test_what_the_converter_writes_is_read(tmp_path: Path) -> None:
    rows = [{"key": _key("a"), "frame_idx": [0, 10, 20], "candidates": [[2, 0]]}, {"key": _key("b"), "frames": [4, 2]}]
    (tmp_path / "db.jsonl").write_text("\n".join(map(json.dumps, rows)))
    entries = list(SELECTION_FORMATS.load("refocus")(tmp_path / "db.jsonl"))
    assert [(entry.about.id, entry.frames, entry.ranked) for entry in entries] == [
        ("a", (20, 0), True),
        ("b", (4, 2), False),
    ]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("format", "content", "said"),
    [
        ("aks", {"a": [1]}, "expected a list of lists of frame indices, found dict"),
        ("aks", [[1], [2.5]], "list 2, field 'frames': expected a list of frame indices"),
        ("aks", [[1], [-1]], "list 2, field 'frames'"),
        ("aks", "[[1], [2", "not valid JSON"),
        ("tspo", [{"id": "a"}], "row 1, field 'frame_idx'"),
        ("tspo", [{"frame_idx": [1.0]}], "row 1: no id; expected one of the fields id, question_id"),
        ("tspo", [{"id": "a", "frame_idx": [1]}] * 2, "row 2: 'a' was already in .*row 1"),
        (
            "tspo",
            [{"id": "zz", "frame_idx": [1]}],
            "none of 1 lists is for one of the questions; the first is for 'zz'",
        ),
        ("tspo", [{"id": "zz", "frame_idx": []}], "no list has any frames"),
        ("kfs-bench", [{"id": "a", "frame_timestamps": ["x"]}], "field 'frame_timestamps': expected a list of seconds"),
        ("refocus", [], "no shelve at|is no shelve"),
    ],
)
def test_bad_files_are_told(tmp_path: Path, questions: Path, format: str, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        _import(tmp_path, format, content, questions)
    assert not (tmp_path / "s.jsonl").exists()


def test_a_list_without_ranks_is_not_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lists 3 frames and does not tell which come first; the budget cannot be 2"):
        _import(tmp_path, "tspo", [{"id": "a", "frame_idx": [1, 2, 3]}], None, budget=2)


def test_the_command_and_what_it_leads_to(tmp_path: Path, questions: Path, ids: list[str]) -> None:
    lists, output = tmp_path / "selected_frames.json", tmp_path / "aks.jsonl"
    lists.write_text(json.dumps([[5, 1, 9]] * len(ids)))
    command = ["data", "import-selections", "aks", str(lists), "--questions", str(questions), "--output", str(output)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "not in temporal order, sorted" in result.output
    measured = CliRunner().invoke(app, ["quality", str(output), "--questions", str(questions), "--json"])
    assert json.loads(measured.stdout)["rows"][0]["missing"] == {}
