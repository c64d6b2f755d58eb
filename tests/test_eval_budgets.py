"""Budgets of ``refocus eval`` where frames come from selection files."""

from pathlib import Path

from refocus_video.cli.eval import budgets_of
from refocus_video.data.selections import Chosen, write_selections


def test_budgets_left_out_are_those_of_the_selection_files(tmp_path: Path) -> None:
    def row(budget: int) -> Chosen:
        frames = list(range(budget))
        return Chosen(id="q", video="v.mp4", question="?", selector="mine", budget=budget, frame_indices=frames)

    write_selections(tmp_path / "a.jsonl", {"selector": "mine"}, [row(8), row(3)])
    assert budgets_of([tmp_path / "a.jsonl"]) == (3, 8)
    assert budgets_of([]) == ()
