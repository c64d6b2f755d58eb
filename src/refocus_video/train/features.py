"""Videos looked at once: what the policy's tower and the reference model see of every candidate frame, kept on disk.

One safetensors file a video, named by everything it depends on, so that an interrupted run goes on where it stopped and a changed
video or setting is never confused with an old one. A video that cannot be read is listed with its reason and left out; nothing
else is.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from refocus_video.config import RunConfig
from refocus_video.errors import VideoError
from refocus_video.files import replacing
from refocus_video.policy.policy import FramePolicy
from refocus_video.reference.base import ReferenceModel
from refocus_video.video.candidates import load_candidates

MEMORY_BYTES = 2 * 1024**3
"""Features that are kept in memory at most; the rest is read from disk again."""


@dataclass(frozen=True, slots=True)
class VideoFeatures:
    """What is kept of one video's F candidate frames."""

    policy: Tensor
    """From :meth:`FramePolicy.encode`, (F, P, C)."""
    reference: Tensor
    """From :meth:`ReferenceModel.encode`, (F, ...)."""
    times: Tensor
    """Presentation times in seconds, (F,) float64."""

    def __len__(self) -> int:
        return len(self.times)

    @property
    def num_bytes(self) -> int:
        """Memory that the features take."""
        return self.policy.nbytes + self.reference.nbytes + self.times.nbytes


class FeatureStore:
    """The features of many videos in a folder."""

    def __init__(self, folder: Path, config: RunConfig, policy: FramePolicy, reference: ReferenceModel) -> None:
        """Nothing is computed until :meth:`build`."""
        self.folder = folder
        self.config = config
        self.policy = policy
        self.reference = reference
        tower = {k: v for k, v in policy.state_dict().items() if k.startswith("vision.tower")}
        self._recipe = json.dumps(
            [config.sampling.model_dump(), config.policy.model_dump(), weights_digest(tower), _fingerprint(reference)]
        )
        self._memory: dict[str, VideoFeatures] = {}

    def path(self, video: str) -> Path:
        """Where the features of a video lie."""
        stat = Path(video).stat()
        key = f"{Path(video).resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{self._recipe}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"

    def build(
        self,
        videos: Iterable[str],
        progress: Callable[[], None] = lambda: None,
        enough: Callable[[int], bool] = lambda frames: True,
    ) -> dict[str, str]:
        """Compute what is missing; returns the videos that cannot be used, each with its reason.

        ``enough`` says whether a number of candidate frames will do.
        """
        failures: dict[str, str] = {}
        for video in videos:
            try:
                self._build_one(video)
                if not enough(frames := self.num_candidates(video)):
                    raise VideoError(f"{video} gives {frames} candidate frames, too few for the budgets of this run")
            except VideoError as error:
                failures[video] = str(error)
            progress()
        return failures

    def _build_one(self, video: str) -> None:
        if not Path(video).is_file():
            raise VideoError(f"no video file at {video}")
        path = self.path(video)
        if path.exists():
            return
        side = self.config.policy.vision.image_size
        seen = load_candidates(video, (side, side), self.config.sampling)
        same = self.reference.image_size == (side, side)
        shown = seen if same else load_candidates(video, self.reference.image_size, self.config.sampling)
        tensors = {
            "policy": self.policy.encode(seen.frames).half().contiguous(),
            "reference": self.reference.encode(shown.frames).half().contiguous(),
            "times": torch.from_numpy(seen.times),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary)

    def num_candidates(self, video: str) -> int:
        """Candidate frames of a built video, without reading its features."""
        with safe_open(self.path(video), framework="pt") as file:
            return int(file.get_slice("times").get_shape()[0])

    def __getitem__(self, video: str) -> VideoFeatures:
        """Features of a built video; the ones used last stay in memory, up to :data:`MEMORY_BYTES`."""
        found = self._memory.pop(video, None)
        if found is None:
            found = VideoFeatures(**load_file(self.path(video)))
            held = found.num_bytes + sum(other.num_bytes for other in self._memory.values())
            while self._memory and held > MEMORY_BYTES:
                held -= self._memory.pop(next(iter(self._memory))).num_bytes
        self._memory[video] = found  # a dictionary keeps the order of insertion: the last used is last
        return found


def _fingerprint(reference: ReferenceModel) -> str:
    """A short name for how a reference model sees: two models in the same folder, one after the other, are told apart."""
    noise = np.random.default_rng(0).integers(0, 256, (1, *reference.image_size, 3), dtype=np.uint8)
    return weights_digest({"noise": reference.encode(noise).half()})


def weights_digest(weights: dict[str, Tensor]) -> str:
    """A short name for these exact weights."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
