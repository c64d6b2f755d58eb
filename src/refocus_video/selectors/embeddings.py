"""What an encoder made of a video's frames, kept on disk under a name made of all that it depends on.

One safetensors file each, with its key and a checksum in the header; what was used least recently goes first when there
is too much.
"""

import contextlib
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from refocus_video.errors import RefocusWarning, one_line
from refocus_video.files import cache_folder, replacing
from refocus_video.selectors.scored import Features
from refocus_video.types import ByteArray

FORMAT = "refocus-video-embeddings-1"
DEFAULT_LIMIT = 2 * 1024**3
"""Bytes that all files may take together when no limit is stated."""


def default_folder() -> Path:
    """``$REFOCUS_CACHE/embeddings``, else ``~/.cache/refocus-video/embeddings``."""
    return cache_folder("embeddings")


def pictures_identity(frames: ByteArray) -> dict[str, Any]:
    """The digest of pictures, (F, H, W, 3) uint8: the same ones are known again, whatever file they came from."""
    return {"shape": list(frames.shape), "sha256": hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()}


@dataclass(frozen=True, slots=True)
class EmbeddingStore:
    """A folder of embeddings."""

    folder: Path = field(default_factory=default_folder)
    limit_bytes: int = DEFAULT_LIMIT

    def path(self, key: Mapping[str, Any]) -> Path:
        """The file of a key that JSON can hold."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"

    def load(self, key: Mapping[str, Any]) -> Features | None:
        """What is stored under a key, (F, D); None when there is nothing, or a damaged file, which a warning names."""
        path = self.path(key)
        try:
            with safe_open(path, framework="numpy") as file:
                about, features = file.metadata() or {}, file.get_tensor("features")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            _warn_damaged(path, one_line(error))
            return None
        if about != _header(key, features):
            _warn_damaged(path, "it is not what its name says")
            return None
        with contextlib.suppress(OSError):  # a folder that may only be read
            os.utime(path)
        found: Features = features
        return found

    def save(self, key: Mapping[str, Any], features: Features) -> None:
        """Store features, (F, D); where that cannot be done, a warning says so, once for a folder and reason."""
        path = self.path(key)
        try:
            with replacing(path) as temporary:
                save_file({"features": features}, temporary, metadata=_header(key, features))
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"cannot keep embeddings in {self.folder} ({one_line(error)}); going on without, or name another folder in "
                "REFOCUS_CACHE",
                RefocusWarning,
                stacklevel=2,
            )
            return
        self._prune(path)

    def _prune(self, keep: Path) -> None:
        files = []
        for path in self.folder.glob("[!.]*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # removed by another process meanwhile
                files.append((path.stat(), path))
        total = sum(stat.st_size for stat, _ in files)
        for stat, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total <= self.limit_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                total -= stat.st_size


def _warn_damaged(path: Path, reason: str) -> None:
    warnings.warn(f"{path} is damaged ({reason}); it is made again", RefocusWarning, stacklevel=3)


def _header(key: Mapping[str, Any], features: Features) -> dict[str, str]:
    """What the header of a file must say."""
    checksum = f"{zlib.crc32(np.ascontiguousarray(features).data):08x}"
    return {"format": FORMAT, "key": json.dumps(key, sort_keys=True), "checksum": checksum}
