"""The demo with several seeds (other videos, other policy, other training): mean and spread of what it reaches.

``python benchmarks/seeds.py [--seeds 0 1 2] [--output runs/seeds]``; finished seeds are not run again.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from machine import describe
from refocus_video.cli.console import progress
from refocus_video.demo import run_demo
from refocus_video.files import write_json

RESULT = Path(__file__).parent / "results" / "seeds.json"


def summarise(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, standard deviation and values of accuracy and recall over seeds, one row a selector, budget and question type."""
    table: dict[tuple[str, int, str], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        for found in result["rows"]:
            table[found["question_type"], found["budget"], found["selector"]].append(found)
    rows = []
    for (kind, budget, selector), seeds in sorted(table.items()):
        row: dict[str, Any] = {"question_type": kind, "budget": budget, "selector": selector, "n": seeds[0]["n"]}
        for measure in ("accuracy", "recall"):
            values = [round(seed[measure], 4) for seed in seeds]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            row[measure] = {"mean": round(statistics.mean(values), 4), "std": round(spread, 4), "values": values}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="key=value, as for refocus demo")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    results = []
    for seed in given.seeds:
        found = given.output / f"seed-{seed}" / "results.json"
        if not found.exists():
            run_demo(found.parent, seed, tuple(given.overrides), progress)
        results.append(json.loads(found.read_text(encoding="utf-8")))
    report: dict[str, Any] = {
        "machine": describe(),
        "seeds": given.seeds,
        "overrides": given.overrides,
        "timings_s": [result["timings"] for result in results],
        "rows": summarise(results),
    }
    write_json(given.result, report)
    for line in report["rows"]:
        accuracy, recall = line["accuracy"], line["recall"]
        print(
            f"{line['question_type']:8} K={line['budget']} {line['selector']:15} "
            f"accuracy {accuracy['mean']:.3f} ± {accuracy['std']:.3f}   recall {recall['mean']:.3f} ± {recall['std']:.3f}"
        )


if __name__ == "__main__":
    main()
