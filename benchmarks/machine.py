"""Where a number was measured, and the one way to keep it: ``benchmarks/results/NAME.json``."""

import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from refocus_video.files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("refocus-video", "torch", "transformers", "accelerate", "av", "numpy")


def describe() -> dict[str, Any]:
    """Date, processor, cores, load and versions."""
    return {
        "date": date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def keep(name: str, report: dict[str, Any]) -> None:
    """Print a report as JSON, and write it with the machine it was measured on."""
    report = {"machine": describe(), **report}
    write_json(RESULTS / f"{name}.json", report)
    print(json.dumps(report, indent=2))
