"""A second device for machines that have none: tensors that are computed on the CPU but say that they are elsewhere.

Inside :func:`second_device` an operation on tensors of both places fails, as it would with a GPU; so does float64 where the device
has none, as a Mac's has not. The device calls itself "meta", the one that every torch knows and that has no numbers of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
aten = torch.ops.aten
CARRIES = {aten.copy_.default, aten._to_copy.default}
INDEXES = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
"""Take positions from the CPU too, where the table is on the device."""


class Far(Tensor):
    """A tensor that says it is elsewhere."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "Far":
        make: Any = torch.Tensor._make_wrapper_subclass
        self: Far = make(cls, near.size(), strides=near.stride(), dtype=near.dtype, device=ELSEWHERE)
        self.near = near
        return self

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Far({self.near})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _compute(function, args, kwargs or {})


def to_second_device(module: nn.Module) -> None:
    """Move the weights of a module there, in place."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = nn.Parameter(Far(weight.detach()), weight.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = Far(buffer)


@contextmanager
def second_device(*, float64: bool = True) -> Iterator[None]:
    """Make new tensors with ``device=ELSEWHERE`` there, and let nothing mix the places."""
    with _Made(), _Kept(float64):
        yield


class _Kept(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, float64: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.float64 = float64

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _compute(function, args, kwargs or {})
        if not self.float64:
            for tensor in tree_leaves(found):
                if isinstance(tensor, Far) and tensor.dtype == torch.float64:
                    raise TypeError(f"{function}: the device has no float64")
        return found


class _Made(TorchFunctionMode):
    """These work below what a dispatch mode sees."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and _is_elsewhere(kwargs.get("device")):
            return function(*args, **kwargs | {"device": "cpu"}).to(ELSEWHERE)
        if function is Tensor.tolist and isinstance(args[0], Far):
            return args[0].near.tolist()
        return function(*args, **kwargs)


def _compute(function: Any, args: Any, kwargs: Any) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    far = any(isinstance(tensor, Far) for tensor in tensors)
    if far and function not in CARRIES:
        for tensor in tensors:
            position = function in INDEXES and tensor is not tensors[0]
            if not isinstance(tensor, Far) and tensor.ndim and not position:  # plain numbers may come from the CPU
                raise RuntimeError(f"{function}: {tuple(tensor.shape)} is on the CPU, another tensor on the device")
    found = function(*tree_map(_near, args), **tree_map(_near, kwargs))
    if function._schema.name.endswith("_") or function._schema.name.endswith("_.out"):
        return args[0]
    asked = kwargs.get("device")
    if not (_is_elsewhere(asked) if asked is not None else far):
        return found
    return tree_map(lambda each: Far(each) if isinstance(each, Tensor) else each, found)


def _near(each: Any) -> Any:
    if isinstance(each, Far):
        return each.near
    return torch.device("cpu") if isinstance(each, torch.device) and _is_elsewhere(each) else each


def _is_elsewhere(device: Any) -> bool:
    return device is not None and torch.device(device) == ELSEWHERE
