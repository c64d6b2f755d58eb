"""What the terminal shows while work goes on, where there is no terminal."""

from types import SimpleNamespace

import pytest

from refocus_video.cli import console


def test_progress_without_a_terminal_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One at the start, one a minute, one at the end; a title with brackets stays as it is."""
    now = 0.0
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now))
    with console.progress("training [v2]", 10) as advance:
        assert capsys.readouterr().err == "training [v2]: 0/10\n"
        for _ in range(10):
            now += 25
            advance(note=f"at {now:.0f} s" if now < 200 else "")
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "training [v2]: 3/10 at 75 s",
        "training [v2]: 6/10 at 150 s",
        "training [v2]: 9/10 at 175 s",
        "training [v2]: 10/10 at 175 s",
    ]
    assert told.out == ""


def test_progress_without_a_terminal_tells_how_far_a_failure_came(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), console.progress("converting", None) as advance:
        advance("what a caller hands over")
        1 / 0  # noqa: B018
    assert capsys.readouterr().err == "converting: 0/?\nconverting: 1/?\n"
