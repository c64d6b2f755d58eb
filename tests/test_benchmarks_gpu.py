"""``make bench-gpu`` without a GPU: the same code at a tiny size, every section, and what happens when one fails."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    return gpu


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_section_runs_and_is_written(gpu: Any, tmp_path: Path) -> None:
    assert gpu.main(["--dry-run", "--output", str(tmp_path / "gpu.json")]) == 0
    report = read(tmp_path / "gpu.json")
    assert report["dry_run"]
    assert {"date", "cpu", "versions"} <= report["machine"].keys()
    sections = report["sections"]
    assert list(sections) == ["index", "question", "policy_step", "back_ends", "devices", "reference", "decode"]
    assert all(found["ok"] for found in sections.values())
    assert sections["index"]["finite"] and sections["policy_step"]["finite"]
    assert sections["question"]["same_picks"] and sections["devices"]["agree"]
    assert sections["question"]["within_target"] is None  # a dry run meets no target
    assert sections["back_ends"]["rows"]["torch float32"]["error"] < 1e-5
    assert "NVIDIA" in sections["back_ends"]["rows"]["triton bfloat16"]["not_run"]
    trained = sections["reference"]["rows"]["trained policy"]
    assert trained["less_tower_work"] > 1
    assert trained["largest_difference"] < 0.05


def test_a_failing_section_is_reported_and_the_others_run(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_sections

    def broken(_: object) -> dict[str, Any]:
        seen = read(tmp_path / "gpu.json")["sections"]
        assert seen["devices"]["ok"], "what is done was written before"
        raise RuntimeError("CUDA out of\nmemory")

    monkeypatch.setitem(gpu_sections.SECTIONS, "question", broken)
    names = ["devices", "question", "back_ends"]
    assert gpu.main(["--dry-run", "--output", str(tmp_path / "gpu.json"), "--sections", *names]) == 1
    sections = read(tmp_path / "gpu.json")["sections"]
    assert [sections[name]["ok"] for name in names] == [True, False, True]
    assert sections["question"]["problem"] == "RuntimeError: CUDA out of memory"
    assert "failed: question" in capsys.readouterr().out


def test_no_section_begins_after_its_time(gpu: Any, tmp_path: Path) -> None:
    words = ["--dry-run", "--minutes", "-1", "--output", str(tmp_path / "gpu.json"), "--sections", "devices"]
    assert gpu.main(words) == 1
    assert "were over" in read(tmp_path / "gpu.json")["sections"]["devices"]["problem"]


def test_what_is_missing_is_named(
    gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pydantic", None)
    assert gpu.main(["--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpu.py: cannot run without pydantic (")
    assert said.count("\n") == 1


def test_unknown_sections_and_a_missing_gpu_are_named(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert gpu.main(["--dry-run", "--sections", "indexx"]) == 2
    assert "no section indexx; there are index, question" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert gpu.main([]) == 2
        assert "--dry-run" in capsys.readouterr().err
