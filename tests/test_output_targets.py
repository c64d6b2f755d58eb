"""Where results go is looked at when the command line is read, before any file is opened or model loaded."""

from pathlib import Path

import pytest

from refocus_video.cli.main import main

FOLDERS = (
    "train",
    "warm-start",
    "filter",
    "eval",
    "needle",
    "quality",
    "reference check",
    "haystack train-reference",
    "report",
    "probe suppression",
    "demo",
)


def refused(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr("sys.argv", ["refocus", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr()
    assert (stopped.value.code, told.out) == (2, "")
    return told.err


@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("output", ["afile", "afile/run"])
def test_a_file_where_a_folder_goes(
    command: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("kept")
    asked = [*command.split(), *([] if command == "demo" else ["missing"]), "--output", output]
    assert refused(asked, monkeypatch, capsys) == "refocus: afile is a file; give a folder\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("afile", "kept")]


def test_a_folder_where_a_file_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("afile").write_text("kept")
    Path("folder").mkdir()
    ask = ["choose", "missing.jsonl", "--output"]
    assert refused([*ask, "folder"], monkeypatch, capsys) == "refocus: folder is a folder; give the name of a file\n"
    assert refused([*ask, "afile/x.jsonl"], monkeypatch, capsys) == "refocus: afile is a file; give a folder\n"
