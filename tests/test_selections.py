"""The selection file: what is written is read, and what cannot be is told by line and field."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from refocus_video.data.selections import (
    FORMAT,
    Chosen,
    check_frames,
    check_indices,
    check_same_pools,
    pool_fingerprint,
    read_selections,
    write_selections,
)
from refocus_video.errors import DataError

HEAD = json.dumps({"manifest": {"format": FORMAT}})
ROW: dict[str, Any] = {
    "id": "q1", "video": "a.mp4", "question": "Who?", "selector": "uniform", "budget": 2,
    "frame_indices": [3, 40], "times": [0.1, 1.6], "positions": [0, 5], "candidates": 8,
}  # fmt: skip


def _file(folder: Path, *rows: dict[str, Any], head: str = HEAD) -> Path:
    path = folder / "selections.jsonl"
    path.write_text("\n".join([head, *map(json.dumps, rows)]) + "\n")
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rows = [
        Chosen(**ROW, scores=[0.5, 0.25], pool="abc"),
        Chosen(
            id="q2",
            video="b.mp4",
            question="W\u2028o?",
            selector="uniform",
            budget=2,
            frame_indices=[],
            error="no video",
        ),
    ]
    write_selections(tmp_path / "s.jsonl", {"selector": "uniform", "sampling": {"fps": 4.0}}, rows)
    found = read_selections(tmp_path / "s.jsonl")
    assert found.rows == rows
    assert found.manifest == {"format": FORMAT, "selector": "uniform", "sampling": {"fps": 4.0}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frame_indices": [40, 3]}, "line 2: frame_indices must increase"),
        ({"frame_indices": [3, 3]}, "frame_indices must increase"),
        ({"frame_indices": [-1, 3]}, "field 'frame_indices.0'"),
        ({"frame_indices": [], "times": []}, "has no frames and no error"),
        ({"frame_indices": [3.5, 40]}, "field 'frame_indices.0'"),
        ({"times": [0.1]}, "2 frames need as many times, found 1"),
        ({"times": [1.6, 0.1]}, "times must not decrease"),
        ({"positions": [0, 8]}, "position 8 is not among its 8 candidates"),
        ({"budget": "two"}, "field 'budget'"),
        ({"id": ""}, "field 'id'"),
        ({"frames": [1]}, "field 'frames': unknown; known fields are id, video"),
    ],
)
def test_a_wrong_row_is_told_by_line_and_field(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_selections(_file(tmp_path, ROW | change))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is this a selection file"):
        read_selections(_file(tmp_path, ROW, head=json.dumps(ROW)))
    with pytest.raises(DataError, match="line 3: 'q1' at 2 frames by uniform was already in line 2"):
        read_selections(_file(tmp_path, ROW, ROW))
    with pytest.raises(DataError, match="holds no selections"):
        read_selections(_file(tmp_path))
    with pytest.raises(DataError, match="no selection file"):
        read_selections(tmp_path / "none.jsonl")


def test_choices_from_other_pools_are_not_compared() -> None:
    pools = [pool_fingerprint(np.arange(0, 80, step)) for step in (10, 20)]
    same = [Chosen(**ROW | {"selector": name}, pool=pools[0]) for name in ("uniform", "policy")]
    check_same_pools([*same, Chosen(**ROW | {"selector": "imported"})])
    with pytest.raises(DataError, match="select again with the same sampling"):
        check_same_pools([*same, Chosen(**ROW | {"selector": "random"}, pool=pools[1])])


def test_frames_that_a_video_does_not_have_are_refused() -> None:
    check_frames(Chosen(**ROW), 41)
    with pytest.raises(DataError, match=r"names frame 40; a.mp4 has frames 0..39"):
        check_frames(Chosen(**ROW), 40)


def test_records_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Chosen(**ROW).budget = 3


def test_times_alone_can_be_measured_and_not_shown() -> None:
    known = Chosen(**ROW | {"frame_indices": []})
    with pytest.raises(DataError, match="has times and no frame indices"):
        check_indices(known)
    check_indices(Chosen(**ROW))
    check_indices(Chosen(**ROW | {"frame_indices": [], "times": [], "positions": None, "error": "no video"}))
    with pytest.raises(ValidationError, match="2 frames need as many scores"):
        Chosen(**ROW | {"frame_indices": [], "scores": [0.5]})
