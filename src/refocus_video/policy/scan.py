"""Who computes the recurrence over a sequence: plain PyTorch anywhere, Triton kernels on NVIDIA (METHOD §3).

Simple gated linear attention with one decay per head is the SSD recurrence under other names::

    query = c      key = b      value = x      gate = log-decay      scale = 1      state: value before key

so the kernels of fla-core (``chunk_simple_gla``, arXiv 2312.06635) compute it, with initial state and gradient.

1. ``auto`` takes the kernels only where they are at home: an NVIDIA GPU and 16-bit weights. They multiply float32 as TF32,
   so float32 weights keep the plain path, and with it their precision.
2. The kernels get x, b and c in the weights' type; log-decays and states stay float32.
3. A back-end that was asked for by name runs, or says why it cannot; nothing else takes its place.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Literal, TypeVar

import torch
from torch import Tensor

from refocus_video.config import ScanChoice
from refocus_video.errors import ConfigError
from refocus_video.policy.ssd import ssd_scan

Backend = Literal["torch", "triton"]
Function = TypeVar("Function", bound=Callable[..., object])

Kernel = Callable[..., tuple[Tensor, Tensor]]
"""``chunk_simple_gla`` or what has its arguments."""

INSTALL = "pip install 'refocus-video[triton]'"
HALF = (torch.bfloat16, torch.float16)


def scan(
    x: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    *,
    chunk: int,
    dtype: torch.dtype,
    choice: ScanChoice = "auto",
) -> tuple[Tensor, Tensor]:
    """The recurrence over a whole sequence by the back-end of choice; arguments and results as :func:`ssd_scan`.

    Args:
        x: inputs already multiplied by their step sizes, (b, l, h, p).
        log_decay: (b, l, h).
        b: input directions, (b, l, n).
        c: output directions, (b, l, n).
        state: the state to start from, (b, h, p, n).
        chunk: most tokens that the plain path treats as one matrix.
        dtype: of the weights.
        choice: the back-end, or "auto".

    Raises:
        ConfigError: when the back-end asked for cannot run here.
    """
    # A single token is no scan: the plain step is what every back-end would do.
    if x.shape[1] > 1 and backend(choice, x.device, dtype, gradient=torch.is_grad_enabled()) == "triton":
        return scan_by_gla(_kernel(), x, log_decay, b, c, state, dtype)
    return ssd_scan(x, log_decay, b, c, state, chunk=chunk)


def backend(choice: ScanChoice, device: torch.device, dtype: torch.dtype, *, gradient: bool = False) -> Backend:
    """Which back-end computes the scan of weights of a type on a device.

    Args:
        choice: a back-end, or "auto".
        device: of the weights.
        dtype: of the weights.
        gradient: whether one is needed.

    Raises:
        ConfigError: when the back-end asked for cannot run here.
    """
    if choice == "torch":
        return "torch"
    reason = obstacle(device, dtype, gradient=gradient)
    if choice == "triton" and reason is not None:
        raise ConfigError(f"scan: triton cannot run here: {reason}; choose auto or torch")
    return "triton" if reason is None and (choice == "triton" or dtype in HALF) else "torch"


def obstacle(device: torch.device, dtype: torch.dtype, *, gradient: bool = False) -> str | None:
    """Why the Triton kernels cannot run for weights of a type on a device, None where they can."""
    if device.type != "cuda" or torch.version.cuda is None:
        return f"its kernels need an NVIDIA GPU, not {device.type}"
    if dtype == torch.float64:
        return "its kernels compute in float32 at most, and the weights are float64"
    reason: str | None = _obstacle_of(device, gradient)
    return reason


def _constant(function: Function) -> Function:
    """Mark what a compiled graph takes as a constant, as ``torch.compiler.assume_constant_result`` does.

    That one imports the whole compiler, most of a second, for programs that compile nothing.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@cache
@_constant
def _obstacle_of(device: torch.device, gradient: bool) -> str | None:
    """What of :func:`obstacle` depends on the machine alone."""
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        return f"its kernels need compute capability 8.0, and {torch.cuda.get_device_name(device)} has {capability}"
    try:
        _kernel()
    except ImportError as error:
        return f"fla-core cannot be imported ({error}); {INSTALL}"
    # fla-core itself refuses this: a compiler fault that gives wrong gradients on Hopper.
    if gradient and capability[0] == 9 and (3, 4, 0) <= _release("triton") < (3, 7, 1):
        return "training on a Hopper GPU needs triton 3.7.1 or newer"
    return None


def scan_by_gla(
    kernel: Kernel, x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, state: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The recurrence through a kernel for simple gated linear attention; otherwise as :func:`scan`."""
    heads = x.shape[2]
    # The kernels know no groups: every head gets its own copy of the directions.
    key, query = (part.to(dtype)[:, :, None].expand(-1, -1, heads, -1) for part in (b, c))  # (b, l, h, n)
    y, after = kernel(
        query,
        key,
        x.to(dtype),
        log_decay,
        scale=1.0,
        initial_state=state,
        output_final_state=True,
        state_v_first=True,
    )
    return y.to(x.dtype), after


@cache
def _kernel() -> Kernel:
    from fla.ops.simple_gla import chunk_simple_gla

    kernel: Kernel = chunk_simple_gla
    return kernel


def _release(package: str) -> tuple[int, ...]:
    """``3.7.1+git`` as (3, 7, 1)."""
    numbers = version(package).split("+")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdigit())
