"""Result tables for other documents: Markdown, LaTeX and CSV. Pure: lines in, text out.

A table has one row a selector and one column a budget, and there is one for each question file, model and group of questions.
The best selector of a column that is no control stands in bold; ``*`` marks a difference to the baseline whose 95 % interval
leaves out 0.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

FEWEST_VIDEOS = 8
"""With fewer, the bootstrap over videos is too sure of itself."""

CONTROLS = frozenset({"oracle", "query-blind", "wrong-question"})


@dataclass(frozen=True, slots=True)
class Table:
    """One table, cell by cell."""

    dataset: str
    model: str
    group: str
    count: int
    budgets: tuple[int, ...]
    cells: dict[str, tuple[Row | None, ...]]
    """The line of each budget, by selector."""

    @property
    def title(self) -> str:
        """What the table is about."""
        about = [self.dataset, self.model, f"{self.group} questions" if self.group == "all" else self.group]
        return " · ".join([*filter(None, about), f"n = {self.count}"])

    def best(self, column: int) -> float | None:
        """The highest accuracy of a column, controls aside."""
        found = [row[column] for name, row in self.cells.items() if name not in CONTROLS]
        return max((cell["accuracy"] for cell in found if cell is not None), default=None)


def tables(lines: Sequence[Row]) -> list[Table]:
    """Put lines (see :func:`~refocus_video.evaluate.runs.compare`) into tables."""
    keys = dict.fromkeys((line["dataset"], line["model"], line["question_type"]) for line in lines)
    found = []
    for dataset, model, group in keys:
        own = [x for x in lines if (x["dataset"], x["model"], x["question_type"]) == (dataset, model, group)]
        budgets = tuple(sorted({line["budget"] for line in own}))
        at = {(line["selector"], line["budget"]): line for line in own}
        selectors = dict.fromkeys(line["selector"] for line in own)
        cells = {name: tuple(at.get((name, budget)) for budget in budgets) for name in selectors}
        found.append(Table(dataset, model, group, max(line["n"] for line in own), budgets, cells))
    return found


def clear(line: Row) -> bool:
    """Whether the interval of the difference to the baseline leaves out 0, over enough videos for an interval to mean something."""
    low, high = line["accuracy_gain_low"], line["accuracy_gain_high"]
    return low is not None and line["videos"] >= FEWEST_VIDEOS and (low > 0 or high < 0)


def markdown(lines: Sequence[Row]) -> str:
    """Every table, as GitHub renders it."""
    parts = []
    for table in tables(lines):
        head = ["frames picked by", *(f"{budget} frame{'s' * (budget > 1)}" for budget in table.budgets)]
        body = [
            [_piped(name), *(_written(cell, table.best(i), "**{}**", "\\*") for i, cell in enumerate(row))]
            for name, row in table.cells.items()
        ]
        rows = [head, ["---", *("---:" for _ in table.budgets)], *body]
        parts.append(f"### {_line(table.title)}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows))
    return "\n".join(parts)


def latex(lines: Sequence[Row]) -> str:
    """Every table as a ``tabular`` with booktabs rules."""
    parts = []
    for table in tables(lines):
        head = " & ".join(["", *(str(budget) for budget in table.budgets)])
        body = [
            " & ".join(
                [_escaped(name), *(_written(c, table.best(i), r"\textbf{{{}}}", "*") for i, c in enumerate(row))]
            )
            for name, row in table.cells.items()
        ]
        parts.append(
            f"% {_line(table.title)}\n\\begin{{tabular}}{{l{'r' * len(table.budgets)}}}\n\\toprule\n{head} \\\\\n\\midrule\n"
            + "".join(f"{row} \\\\\n" for row in body)
            + "\\bottomrule\n\\end{tabular}\n"
        )
    return "\n".join(parts)


def comma_separated(lines: Sequence[Row]) -> str:
    """Every line with all its numbers."""
    if not lines:
        return ""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _written(cell: Row | None, best: float | None, bold: str, mark: str) -> str:
    if cell is None:
        return "–"
    text = f"{100 * cell['accuracy']:.1f}"
    if best is not None and cell["accuracy"] == best and cell["selector"] not in CONTROLS:
        text = bold.format(text)
    return text + mark * clear(cell)


def _line(text: str) -> str:
    """On one line, where a name may hold several."""
    return " ".join(text.split())


def _piped(text: str) -> str:
    return _line(text).replace("\\", "\\\\").replace("|", "\\|")


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(c) or ("\\" + c if c in "&%$#_{}" else c) for c in _line(text))
