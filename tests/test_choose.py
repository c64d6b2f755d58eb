"""``refocus choose``: the first stage of an evaluation alone, resumable, and fit for the second."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refocus_video.choose_run import choose_frames
from refocus_video.cli.console import progress
from refocus_video.cli.main import app
from refocus_video.config import RunConfig
from refocus_video.data.selections import read_selections
from refocus_video.errors import ConfigError, DataError
from refocus_video.evaluation import Spec, named_selectors

CONFIG = RunConfig()
EVEN = (Spec("uniform"), Spec("random", {"seed": 3}))


def _run(questions: Path, output: Path, specs: tuple[Spec, ...] = EVEN, **more: Any) -> dict[str, Any]:
    return choose_frames(questions, specs, (1, 4), output, CONFIG, progress, **more)


def test_every_question_has_a_row_for_every_selector_and_budget(haystack: Path, tmp_path: Path) -> None:
    numbers = _run(haystack / "validation.jsonl", tmp_path / "s.jsonl")
    found = read_selections(tmp_path / "s.jsonl")
    assert numbers["rows"] == {"uniform": 2 * numbers["questions"], "random": 2 * numbers["questions"]}
    assert len(found.rows) == 4 * numbers["questions"] and all(len(row.times) == row.budget for row in found.rows)
    assert found.manifest["specs"] == ["uniform", "random,seed=3"]


def test_a_run_cut_anywhere_ends_in_the_same_choices(haystack: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    _run(haystack / "validation.jsonl", path)
    whole = path.read_bytes()
    for length in (40, len(whole) // 3, len(whole) - 5):
        path.write_bytes(whole[:length])
        _run(haystack / "validation.jsonl", path)
        again = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.open()]
        assert again == [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in whole.splitlines()]


def test_other_settings_are_not_mixed_and_nothing_is_lost(haystack: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    _run(haystack / "validation.jsonl", path)
    before = path.read_bytes()
    with pytest.raises(
        ConfigError, match=r"selections of other settings \(selectors: .*choose another name or remove it"
    ):
        _run(haystack / "validation.jsonl", path, EVEN[:1])
    with pytest.raises(ConfigError, match=r"other settings \(fingerprints"):
        _run(haystack / "train.jsonl", path)
    assert path.read_bytes() == before
    path.write_text("hello\n")
    with pytest.raises(ConfigError, match="no selection file"):
        _run(haystack / "validation.jsonl", path)


def test_videos_that_cannot_be_read_are_counted(haystack: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (haystack / "validation.jsonl").open()]
    for row in rows:
        row["video"] = str(haystack / row["video"]) if row["video"] == rows[0]["video"] else "gone.mp4"
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    numbers = _run(tmp_path / "q.jsonl", tmp_path / "s.jsonl")
    assert 0 < numbers["without_frames"]["uniform"] < numbers["rows"]["uniform"]
    assert [Path(video).name for video in numbers["failures"]] == ["gone.mp4"]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row | {"video": "gone.mp4"}) for row in rows))
    with pytest.raises(DataError, match=r"gone\.mp4"):
        _run(tmp_path / "q.jsonl", tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_what_is_chosen_can_be_measured_and_the_oracle_finds_everything(haystack: Path, tmp_path: Path) -> None:
    questions, path = str(haystack / "validation.jsonl"), str(tmp_path / "s.jsonl")
    command = ["choose", questions, "--selector", "uniform", "--controls", "--budgets", "4", "--output", path, "--json"]
    assert "oracle" in json.loads(CliRunner().invoke(app, command).stdout)["rows"]
    result = CliRunner().invoke(app, ["quality", path, "--questions", questions, "--json"])
    lines = {row["selector"]: row for row in json.loads(result.stdout)["rows"]}
    assert lines["oracle"]["scene_hit_rate"] == 1
    assert lines["uniform"]["scene_hit_rate"] < 1
    bad = CliRunner().invoke(app, ["choose", questions, "--budgets", "4,x"])
    assert isinstance(bad.exception, DataError)


def test_all_stands_for_every_selector_that_its_parts_make(haystack: Path, tmp_path: Path) -> None:
    questions, path = tmp_path / "q.jsonl", str(tmp_path / "s.jsonl")
    first = json.loads((haystack / "validation.jsonl").open().readline())
    questions.write_text(json.dumps(first | {"video": str(haystack / first["video"])}))
    command = ["choose", str(questions), "--budgets", "1,40", "--output", path, "--json"]
    result = CliRunner().invoke(app, [*command, "--selector", "all,relevance=haystack-tiny"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert {"uniform", "topk", "mdp3", "policy", "mixed(policy)", "covered(policy)", "gate(policy)"} <= set(rows)
    assert set(rows.values()) == {2} and not json.loads(result.stdout)["without_frames"]
    without = [*command[:-2], str(tmp_path / "t.jsonl"), "--json", "--selector", "all"]
    result = CliRunner().invoke(app, without)
    assert "left out: bolt needs relevance scores" in " ".join(result.stderr.split())
    assert "policy" in json.loads(result.stdout)["rows"]
    with pytest.raises(ConfigError, match="selector 'all' takes policy and relevance, found seed"):
        named_selectors(["all,seed=3"], "haystack-tiny")
