"""What one frozen model sees of every candidate frame of a video, kept on disk: one safetensors file a video and model.

A file is named by everything it depends on (the video file, the sampling, the model and how it pools), and by nothing else: an
interrupted run goes on where it stopped, other runs over the same videos share the files, and a changed video or setting is never
confused with an old one. Each file has a checksum: a damaged one is named and made again. A video that cannot be read is listed
with its reason and left out; nothing else is.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refocus_video.config import SamplingConfig
from refocus_video.errors import RefocusWarning, StoreError, VideoError, one_line
from refocus_video.files import replacing
from refocus_video.policy.index import checksum
from refocus_video.types import ByteArray, Candidates
from refocus_video.video.candidates import load_candidates
from refocus_video.video.identity import file_identity


@dataclass(frozen=True, slots=True)
class Viewer:
    """A frozen model that looks at frames."""

    image_size: tuple[int, int]
    """(height, width) in pixels of the frames it takes."""
    key: str
    """All that its view depends on, in a few words or a digest."""
    encode: Callable[[ByteArray], Tensor]
    """Frames (F, height, width, 3) uint8 to what is kept of them, (F, ...)."""


@dataclass(frozen=True, slots=True)
class ViewStore:
    """The views that one model has of many videos, in a folder that others may share."""

    folder: Path
    sampling: SamplingConfig
    viewer: Viewer

    def path(self, video: str) -> Path:
        """Where the view of a video lies.

        Raises:
            VideoError: if there is no such video file.
        """
        key = json.dumps([file_identity(video), self.sampling.model_dump(), self.viewer.image_size, self.viewer.key])
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def write(self, candidates: Candidates) -> None:
        """Look at a video's candidate frames and keep what is seen, in sixteen bits.

        Raises:
            StoreError: if it cannot be written.
        """
        seen = in_sixteen_bits(self.viewer.encode(candidates.frames).cpu()).contiguous()
        path = self.path(candidates.video)
        try:
            with replacing(path) as temporary:
                kept = {"seen": seen, "times": torch.from_numpy(candidates.times)}
                save_file(kept, temporary, metadata={"checksum": checksum(kept)})
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"cannot keep features in {self.folder} ({one_line(error)}); free some space, or name another folder "
                "with --features"
            ) from None

    def read(self, video: str) -> tuple[Tensor, Tensor]:
        """What is seen of a video's F frames (F, ...), and their times in seconds (F,) float64.

        Raises:
            StoreError: if the file is damaged.
        """
        path = self.path(video)
        try:
            with safe_open(path, framework="pt") as file:
                kept = {name: file.get_tensor(name) for name in ("seen", "times")}
                stated = (file.metadata() or {}).get("checksum")
        except (SafetensorError, OSError) as error:
            raise StoreError(f"{path} is damaged ({one_line(error)}); run again: it is made again") from None
        if stated != checksum(kept):
            raise StoreError(f"{path} is damaged (it does not match its checksum); run again: it is made again")
        return kept["seen"], kept["times"]

    def holds(self, video: str) -> bool:
        """Whether a video was looked at; a file that is damaged is named by a warning, and is as good as none.

        Raises:
            VideoError: if there is no such video file.
        """
        path = self.path(video)
        if not path.exists():
            return False
        try:
            self.read(video)
        except StoreError as error:
            warnings.warn(str(error).replace("; run again: it is", "; it is"), RefocusWarning, stacklevel=2)
            return False
        return True

    def num_frames(self, video: str) -> int:
        """Candidate frames of a video that was looked at, without reading what was seen."""
        with safe_open(self.path(video), framework="pt") as file:
            return int(file.get_slice("times").get_shape()[0])


def look(
    stores: Sequence[ViewStore],
    videos: Iterable[str],
    progress: Callable[[], None] = lambda: None,
    enough: Callable[[int], bool] = lambda frames: True,
) -> dict[str, str]:
    """Look at videos with several models, as far as that is missing; returns those that cannot be used, with their reasons.

    A video is decoded once for all models that take frames of the same size. ``enough`` says whether a number of candidate frames
    will do.
    """
    failures: dict[str, str] = {}
    for video in videos:
        try:
            _look_at(video, stores)
            if not enough(frames := stores[0].num_frames(video)):
                raise VideoError(f"{video} gives {frames} candidate frames, too few for the budgets of this run")
        except VideoError as error:
            failures[video] = str(error)
        progress()
    return failures


def _look_at(video: str, stores: Sequence[ViewStore]) -> None:
    missing = [store for store in stores if not store.holds(video)]
    for size in dict.fromkeys(store.viewer.image_size for store in missing):
        same = [store for store in missing if store.viewer.image_size == size]
        candidates = load_candidates(video, size, same[0].sampling)
        for store in same:
            store.write(candidates)


def in_sixteen_bits(seen: Tensor) -> Tensor:
    """Features as they are kept: float32 in half precision; what has sixteen bits or is no number, as it is."""
    return seen.half() if seen.dtype in (torch.float32, torch.float64) else seen


def weights_digest(weights: dict[str, Tensor]) -> str:
    """A short name for these exact weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
