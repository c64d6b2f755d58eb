"""Video indexes kept on disk, so that a video is decoded and encoded once, whoever asks and in whichever process.

A file's name is made of all that the index depends on: the video, the sampling and the policy. A changed video, other
sampling or another policy therefore has another name, and an old index is never taken for a new one. Files are written
whole or not at all; of several processes that want the same index, one makes it and the others wait for it. A damaged file is
named and made again; where nothing can be written, answers are given without. Reading a file marks it as used, and the files
that were not used for longest are removed when all of them together exceed the limit.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refocus_video.config import SamplingConfig
from refocus_video.errors import RefocusWarning, StoreError, VideoError
from refocus_video.files import cache_folder, only_one
from refocus_video.policy.index import StoredType, index_bytes, load_index, read_about, save_index
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import VideoIndex
from refocus_video.selectors.stream import OnProgress, index_video, no_progress
from refocus_video.types import Timeline
from refocus_video.video.identity import content_identity, file_identity

DEFAULT_LIMIT = 10 * 1024**3
"""Bytes that all stored indexes may take together when no limit is stated."""

_ABANDONED_S = 24 * 3600
"""Age at which an unfinished file can only be that of a process that was killed."""


def default_folder() -> Path:
    """``$REFOCUS_CACHE/index``, else ``~/.cache/refocus-video/index``."""
    return cache_folder("index")


@dataclass(frozen=True, slots=True)
class Opened:
    """A video and its index."""

    timeline: Timeline
    index: VideoIndex
    path: Path
    """The file that holds them."""
    reused: bool
    """Whether they came from that file; otherwise the video was indexed and the file written."""
    dtype: str
    """How the numbers are stored."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the store."""

    path: Path
    num_bytes: int
    used: float
    """When it was last written or read, in seconds since 1970."""
    about: dict[str, Any]
    """What it was made of; empty for a file that cannot be read."""
    problem: str = ""
    """Why it cannot be read."""

    @property
    def name(self) -> str:
        """The file's name without its ending, which tells it from all others."""
        return self.path.stem


@dataclass(frozen=True, slots=True)
class IndexStore:
    """A folder of video indexes."""

    folder: Path
    dtype: StoredType | None = None
    """How to store numbers; an index stored otherwise is made again. None: float32, and any stored one will do."""
    by_content: bool = False
    """Know a video by its bytes, whatever its name, instead of by path, size and time of change."""
    limit_bytes: int = DEFAULT_LIMIT
    required: bool = False
    """Whether an index that cannot be stored is an error; otherwise a warning says so, and the index serves this once."""

    def open(
        self,
        policy: FramePolicy,
        revision: str,
        video: str | Path,
        sampling: SamplingConfig,
        progress: OnProgress = no_progress,
    ) -> Opened:
        """The index of a video: read when there is a whole one, else made and stored.

        Args:
            policy: which reads the video.
            revision: of the policy, :func:`refocus_video.policy.index.revision`.
            video: a video file.
            sampling: how many frames to take.
            progress: called while indexing.

        Raises:
            VideoError: when the video cannot be read, or changes meanwhile.
            StoreError: when an index cannot be written and is ``required``.
        """
        stamp = file_identity(video)
        identity = content_identity(video) if self.by_content else stamp
        key = {"video": identity, "sampling": sampling.model_dump(mode="json"), "policy": revision}
        path = self.folder / f"{_digest(key)}.safetensors"
        if (found := self._stored(path, key, policy, str(video))) is not None:
            return found
        stored = self._possible(lambda: self._check_room(index_bytes(policy, sampling.max_frames or 0)))
        before = _changed_at(path)
        with self._alone(path) if stored else contextlib.nullcontext():
            if _changed_at(path) != before and (found := self._stored(path, key, policy, str(video))) is not None:
                return found  # another process has made it meanwhile
            return self._make(policy, video, sampling, progress, stamp, path, key, stored)

    def _stored(self, path: Path, key: dict[str, Any], policy: FramePolicy, video: str) -> Opened | None:
        try:
            found = _load(path, key, policy, video)
        except StoreError as error:
            warnings.warn(f"{error}; the video is indexed again", RefocusWarning, stacklevel=2)
            return None
        return found if found is not None and self.dtype in (None, found.dtype) else None

    def _possible(self, write: Callable[[], None]) -> bool:
        """Whether something could be written, as far as that is not required."""
        try:
            write()
        except StoreError as error:
            if self.required:
                raise
            warnings.warn(f"{error}; going on without storing the index", RefocusWarning, stacklevel=2)
            return False
        return True

    @contextlib.contextmanager
    def _alone(self, path: Path) -> Iterator[None]:
        """Wait until no other process makes the same index, and keep them waiting."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(
                OSError
            ):  # where no lock can be written, the index cannot either: it is told there
                held.enter_context(only_one(path))
            yield

    def _make(
        self,
        policy: FramePolicy,
        video: str | Path,
        sampling: SamplingConfig,
        progress: OnProgress,
        stamp: dict[str, str | int],
        path: Path,
        key: dict[str, Any],
        stored: bool,
    ) -> Opened:
        timeline, index = index_video(policy, video, sampling, progress=progress)
        if file_identity(video) != stamp:
            raise VideoError(f"{video} changed while it was indexed; wait until it is complete, or follow it")
        dtype: StoredType = self.dtype or "float32"
        extra = {"frame_indices": torch.from_numpy(timeline.frame_indices), "times": torch.from_numpy(timeline.times)}
        about = {"key": key, "video": str(Path(video).resolve()), "frames": len(timeline)}
        if stored and self._possible(lambda: save_index(path, index, extra, about, dtype)):
            self.prune(self.limit_bytes, keep=path)
        elif dtype != "float32":
            raise StoreError(f"numbers as {dtype} are those of a stored index, and none can be stored in {self.folder}")
        if dtype != "float32":  # so that the first answer is the one that all later ones repeat
            index = load_index(path, policy).index
        return Opened(timeline, index, path, False, dtype)

    def entries(self) -> list[Entry]:
        """All indexes, the one used last first."""
        found = [_entry(path) for path in self.folder.glob("[!.]*.safetensors")]
        return sorted((entry for entry in found if entry is not None), key=lambda entry: -entry.used)

    def prune(self, limit_bytes: int, keep: Path | None = None) -> list[Entry]:
        """Remove the indexes used least recently until the rest fits a limit; returns what was removed.

        Args:
            limit_bytes: what all indexes may take together; 0 removes all.
            keep: a file that stays, whatever its size.
        """
        self._clear_abandoned()
        entries, removed = self.entries(), []
        total = sum(entry.num_bytes for entry in entries)
        for entry in reversed(entries):
            if total <= limit_bytes:
                break
            if entry.path != keep:
                entry.path.unlink(missing_ok=True)
                total -= entry.num_bytes
                removed.append(entry)
        return removed

    def remove(self, name: str) -> list[Entry]:
        """Remove the indexes of a video, given by its path, or the one with a name or its first 12 letters."""
        video = str(Path(name).resolve())
        removed = [e for e in self.entries() if e.about.get("video") == video or name in (e.name, e.name[:12])]
        for entry in removed:
            entry.path.unlink(missing_ok=True)
        return removed

    def _check_room(self, needed: int) -> None:
        """Find out before an hour of computing that nothing could be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise StoreError(f"cannot keep indexes in {self.folder} ({error.strerror}); {_ELSEWHERE}") from None
        if free < needed:
            raise StoreError(
                f"an index needs up to {needed / 1e6:.0f} MB, and {self.folder} has {free / 1e6:.0f} MB left; {_ELSEWHERE}"
            )

    def _clear_abandoned(self) -> None:
        for path in self.folder.glob(".*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()


_ELSEWHERE = "name another folder in REFOCUS_CACHE, or go without stored indexes"


def _changed_at(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _load(path: Path, key: dict[str, Any], policy: FramePolicy, video: str) -> Opened | None:
    try:
        stored = load_index(path, policy)
    except FileNotFoundError:
        return None
    about, extra = stored.about, stored.extra
    if about.get("key") != key or not {"frame_indices", "times"} <= extra.keys():
        raise StoreError(f"{path} is not a usable video index: it holds that of something else than its name says")
    timeline = Timeline(video, extra["frame_indices"].numpy(), extra["times"].numpy())
    with contextlib.suppress(OSError):  # a folder that may only be read: nothing is pruned there either
        os.utime(path)
    return Opened(timeline, stored.index, path, True, str(about["dtype"]))


def _entry(path: Path) -> Entry | None:
    try:
        stat = path.stat()
        return Entry(path, stat.st_size, stat.st_mtime, read_about(path))
    except FileNotFoundError:  # removed by another process meanwhile
        return None
    except StoreError as error:
        return Entry(path, stat.st_size, stat.st_mtime, {}, str(error))
