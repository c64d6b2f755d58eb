"""Where a number was measured, and the one way to keep it: ``benchmarks/results/NAME.json``."""

import json
import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from refocus_video.files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("refocus-video", "torch", "transformers", "accelerate", "av", "numpy", "triton", "fla-core")


def describe() -> dict[str, Any]:
    """Date, processor, cores, load and versions."""
    found = {package: number for package in PACKAGES if (number := version_of(package)) is not None}
    return {
        "date": date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": found,
    }


def version_of(package: str) -> str | None:
    """Of what is installed; None where it is not, as in a checkout that is only on the path."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
