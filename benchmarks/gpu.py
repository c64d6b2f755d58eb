"""The full-size policy and reference model on a GPU, with random weights: speed, memory, and whether back-ends agree.

One call of less than nine minutes that needs no network, no weights and no installation: it runs from a checkout with the
packages that are there, and says which are missing. Every section is on its own: one that fails is reported, the others run,
and the results are written after each.

    make bench-gpu
    PYTHONPATH=src python benchmarks/gpu.py [--sections index question] [--output FILE]
    PYTHONPATH=src python benchmarks/gpu.py --dry-run        the same code at a tiny size, on the processor

Targets on an H200-class GPU: 512 frames indexed in 2 s beside decoding, a further question in 0.15 s, 5 GB. Published for the
authors' GPU: 9 s and 5.3 GB a question.
"""

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NEEDED = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "pydantic", "yaml")
"""Without one of these nothing runs. Others, such as av, fla and triton, are looked for by the sections that need them."""
OUTPUT = Path(__file__).parent / "results" / "gpu.json"
MINUTES = 7.0


def missing() -> list[str]:
    """The needed modules that cannot be imported, each with the reason."""
    reasons = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken installation raises anything
            reasons.append(f"{name} ({type(error).__name__}: {' '.join(str(error).split())[:120]})")
    return reasons


def run_sections(names: Sequence[str], dry_run: bool, output: Path | None, minutes: float) -> dict[str, Any]:
    """Run sections one after the other; those that would begin too late are left out, and said to be."""
    from gpu_sections import SECTIONS, Bench, environment, release
    from machine import describe
    from refocus_video.files import write_json

    begun = time.monotonic()
    bench = Bench.create(dry_run)
    report: dict[str, Any] = {"dry_run": dry_run, "machine": describe(), **environment(bench), "sections": {}}
    for name in names:
        started = time.monotonic()
        found: dict[str, Any]
        if started - begun > 60 * minutes:
            found = {"ok": False, "problem": f"not begun: {minutes} minutes were over"}
        else:
            try:
                found = {"ok": True, **SECTIONS[name](bench)}
            except Exception as error:
                lines = traceback.format_exc().splitlines()
                problem = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
                found = {"ok": False, "problem": problem, "traceback": lines[-12:]}
        found["section_s"] = round(time.monotonic() - started, 1)
        report["sections"][name] = found
        report["total_s"] = round(time.monotonic() - begun, 1)
        print(f"{name}: {json.dumps(found)}", flush=True)
        if output is not None:
            write_json(output, report)
        release()
    return report


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the processor; kept only with --output")
    parser.add_argument("--sections", nargs="+", help="some of them; all if left out")
    parser.add_argument("--output", type=Path, help=f"where the results go; {OUTPUT.name} in benchmarks/results")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no section begins later than this")
    given = parser.parse_args(words)
    absent = missing()
    if absent:
        print(f"gpu.py: cannot run without {'; '.join(absent)}", file=sys.stderr)
        return 2
    try:
        from gpu_sections import SECTIONS
    except ModuleNotFoundError as error:
        print(f"gpu.py: no module {error.name}; run from a checkout with PYTHONPATH=src", file=sys.stderr)
        return 2
    import torch

    unknown = sorted(set(given.sections or ()) - SECTIONS.keys())
    if unknown:
        print(f"gpu.py: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    if not given.dry_run and not torch.cuda.is_available():
        print(
            "gpu.py: torch finds no GPU; --dry-run runs the same code at a tiny size on the processor", file=sys.stderr
        )
        return 2
    output = given.output or (None if given.dry_run else OUTPUT)
    report = run_sections(given.sections or list(SECTIONS), given.dry_run, output, given.minutes)
    failed = [name for name, found in report["sections"].items() if not found["ok"]]
    print(f"{len(report['sections']) - len(failed)} sections done, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
