"""``refocus env``: versions, devices and what would run on them; the first thing to paste into a bug report."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from refocus_video.cli.console import print_json, print_table

PACKAGES = ("refocus-video", "torch", "transformers", "accelerate", "av", "safetensors", "triton", "fla-core")


def run_env(as_json: bool) -> None:
    """See ``refocus env --help``."""
    python, system = platform.python_version(), platform.platform()
    packages, scans = {package: _version(package) for package in PACKAGES}, _scans()
    if as_json:
        print_json({"python": python, "platform": system, "packages": packages, "scan": scans})
        return
    versions = [[package, found or "not installed"] for package, found in packages.items()]
    print_table("Versions", ["", "version"], [["Python", python], ["platform", system], *versions])
    print_table(
        "What computes the policy's recurrence",
        ["device", "16-bit weights", "float32 weights", "Triton"],
        [[row["device"], row["bfloat16"], row["float32"], row["obstacle"] or "can run"] for row in scans],
    )


def _scans() -> list[dict[str, Any]]:
    """The back-end that each device gets, and why Triton is not to be had there."""
    import torch

    from refocus_video.policy.scan import backend, obstacle

    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    return [
        {
            "device": str(device),
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "bfloat16": backend("auto", device, torch.bfloat16),
            "float32": backend("auto", device, torch.float32),
            "obstacle": obstacle(device, torch.bfloat16),
            "obstacle_in_training": obstacle(device, torch.bfloat16, gradient=True),
        }
        for device in (*devices, torch.device("cpu"))
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
