"""The index of one video as a file: a safetensors file with a JSON description in its header.

Tensors are ``keys`` (F, D), ``values`` (F, D), for each layer i ``conv.i`` and ``ssm.i`` without their row, and whatever the
caller adds. They can be stored in half precision; a checksum over them is kept in the header, so that a damaged file is told
from a whole one.

Legend: F candidate frames, D width.
"""

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refocus_video.errors import StoreError, one_line
from refocus_video.files import cache_folder, replacing, write_text
from refocus_video.policy.mamba2 import LayerState, State
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import VideoIndex

FORMAT = "refocus-video-index-2"
"""2: mirrored pictures and the default stream; indexes of format 1 may show something else."""

StoredType = Literal["float32", "float16", "bfloat16"]
"""How the numbers of an index are stored; float32 loses nothing."""


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """What a file holds."""

    index: VideoIndex
    extra: dict[str, Tensor]
    """The caller's own tensors, as they were given."""
    about: dict[str, Any]
    """The caller's description."""


def save_index(
    path: Path, index: VideoIndex, extra: Mapping[str, Tensor], about: Mapping[str, Any], dtype: StoredType = "float32"
) -> None:
    """Write the index of one video atomically: other processes see the old file or the whole new one.

    Args:
        path: the file.
        index: of a single video without padding.
        extra: further tensors, stored as they are.
        about: a description that JSON can hold.
        dtype: how the numbers of the index are stored.

    Raises:
        StoreError: when the numbers do not fit the type, or the file cannot be written.
    """
    assert len(index.keys) == 1 and bool(index.valid.all()), "an index is stored for one video at a time"
    kept = {name: tensor.to(getattr(torch, dtype)) for name, tensor in _tensors(index).items()}
    if not all(bool(tensor.isfinite().all()) for tensor in kept.values()):
        raise StoreError(f"the index has numbers that {dtype} cannot hold; store it as bfloat16 or float32")
    tensors = {name: tensor.cpu().contiguous() for name, tensor in (kept | dict(extra)).items()}
    header = {"format": FORMAT, "checksum": checksum(tensors), "about": json.dumps({**about, "dtype": dtype})}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=header)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"cannot write {path} ({one_line(error)}); free some space or choose another folder") from None


def load_index(path: Path, policy: FramePolicy) -> StoredIndex:
    """Read an index for the policy that made it, onto its device and in its types.

    Raises:
        FileNotFoundError: when there is no such file.
        StoreError: when it is not a whole index, or does not fit the policy.
    """
    about = read_about(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
            stated = (file.metadata() or {}).get("checksum")
    except (OSError, SafetensorError) as error:
        raise _unusable(path, one_line(error)) from None
    if stated != checksum(tensors):
        raise _unusable(path, "its numbers do not match their checksum")
    expected = _tensors(policy.start_index())
    frames = tensors["keys"].shape[0] if "keys" in tensors and tensors["keys"].ndim else 0
    for name, tensor in expected.items():
        shape = (frames, *tensor.shape[1:]) if name in ("keys", "values") else tensor.shape
        if name not in tensors or tensors[name].shape != shape:
            raise _unusable(path, f"{name} is missing or not of shape {tuple(shape)}, as this policy's would be")
    like = {name: tensors.pop(name).to(tensor.device, tensor.dtype)[None] for name, tensor in expected.items()}
    layers = range(len(policy.backbone.layers))
    state = State(tuple(LayerState(like[f"conv.{i}"], like[f"ssm.{i}"]) for i in layers))
    valid = torch.ones(1, frames, dtype=torch.bool, device=policy.device)
    return StoredIndex(VideoIndex(like["keys"], like["values"], valid, state), tensors, about)


def read_about(path: Path) -> dict[str, Any]:
    """The description in a file's header; the numbers are not read.

    Raises:
        FileNotFoundError: when there is no such file.
        StoreError: when it is not an index.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        if header.get("format") != FORMAT:
            raise _unusable(path, f"its format is {header.get('format', 'unknown')}, not {FORMAT}")
        about = json.loads(header["about"])
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise _unusable(path, one_line(error)) from None
    if not isinstance(about, dict):
        raise _unusable(path, "its description is not a JSON object")
    return about


def revision(policy: FramePolicy) -> str:
    """A short name for exactly this policy: its settings, the tokens before the frames, and its weights with their types."""
    whole = "\n".join([policy.config.model_dump_json(), json.dumps(policy.prefix_ids()), _weights_revision(policy)])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _weights_revision(policy: FramePolicy) -> str:
    """A digest of all weights, which takes seconds for large ones and is therefore kept under the name of their files."""
    origin = policy.origin
    if origin is None:
        return _weights_digest(policy)
    path = cache_folder("revisions") / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if re.fullmatch("[0-9a-f]{64}", found := path.read_text(encoding="utf-8")):
            return found
    digest = _weights_digest(policy)
    with contextlib.suppress(OSError):  # a folder that may only be read: computed again next time
        write_text(path, digest)
    return digest


def _weights_digest(policy: FramePolicy) -> str:
    weights = policy.state_dict()
    names = sorted(weights)
    with ThreadPoolExecutor(4) as pool:  # hashing lets other threads run
        digests = pool.map(lambda name: hashlib.sha256(_bytes(weights[name])).hexdigest(), names)
        parts = [f"{name} {weights[name].dtype} {digest}" for name, digest in zip(names, digests, strict=True)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def index_bytes(policy: FramePolicy, frames: int) -> int:
    """Size of an index of so many frames as float32."""
    fixed = sum(tensor.numel() for name, tensor in _tensors(policy.start_index()).items())
    return 4 * (fixed + frames * policy.config.d_model * (1 if policy.in_block else 2))


def _tensors(index: VideoIndex) -> dict[str, Tensor]:
    """All numbers of a single video's index, by the names they are stored under."""
    layers: dict[str, Tensor] = {}
    for i, layer in enumerate(index.state.layers):
        layers |= {f"conv.{i}": layer.conv[0], f"ssm.{i}": layer.ssm[0]}
    return {"keys": index.keys[0], "values": index.values[0], **layers}


def _bytes(tensor: Tensor) -> Any:
    """The bytes of a tensor of any type, without copying where it lies in main memory."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A short check of tensors with their names and shapes."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(_bytes(tensors[name]), zlib.crc32(f"{name}{list(tensors[name].shape)}".encode(), total))
    return f"{total:08x}"


def _unusable(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is not a usable video index: {reason}")
