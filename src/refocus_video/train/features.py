"""Videos looked at once: what the policy's tower and the reference model see of every candidate frame, kept on disk (views.py).

The policy's view depends on its tower and pooling alone, so that another backbone, or the next run, finds it there.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from refocus_video.config import RunConfig
from refocus_video.files import cache_folder
from refocus_video.policy.policy import FramePolicy
from refocus_video.reference.base import ReferenceModel
from refocus_video.train.views import Viewer, ViewStore, look, weights_digest

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
        self.policy = policy
        self.reference = reference
        viewers = (policy_viewer(policy), reference_viewer(reference))
        self.views = tuple(ViewStore(folder, config.sampling, viewer) for viewer in viewers)
        """The policy's view of the videos, and the reference model's."""
        self._memory: dict[str, VideoFeatures] = {}

    def paths(self, video: str) -> tuple[Path, Path]:
        """Where the features of a video lie: the policy's and the reference model's."""
        return self.views[0].path(video), self.views[1].path(video)

    def build(
        self,
        videos: Iterable[str],
        progress: Callable[[], None] = lambda: None,
        enough: Callable[[int], bool] = lambda frames: True,
    ) -> dict[str, str]:
        """Compute what is missing; returns the videos that cannot be used, as :func:`refocus_video.train.views.look` does."""
        return look(self.views, videos, progress, enough)

    def num_candidates(self, video: str) -> int:
        """Candidate frames of a built video, without reading its features."""
        return self.views[0].num_frames(video)

    def __getitem__(self, video: str) -> VideoFeatures:
        """Features of a built video; the ones used last stay in memory, up to :data:`MEMORY_BYTES`."""
        found = self._memory.pop(video, None)
        if found is None:
            seen, times = self.views[0].read(video)
            found = VideoFeatures(seen, self.views[1].read(video)[0], times)
            held = found.num_bytes + sum(other.num_bytes for other in self._memory.values())
            while self._memory and held > MEMORY_BYTES:
                held -= self._memory.pop(next(iter(self._memory))).num_bytes
        self._memory[video] = found  # a dictionary keeps the order of insertion: the last used is last
        return found


def features_folder() -> Path:
    """Where features lie when no folder is named: shared by all runs, ``$REFOCUS_CACHE/features``."""
    return cache_folder("features")


def policy_viewer(policy: FramePolicy) -> Viewer:
    """The policy's frozen tower with its pooling; nothing else of the policy matters."""
    config = policy.config
    tower = {name: part for name, part in policy.state_dict().items() if name.startswith("vision.tower")}
    seen = config.model_dump(include={"vision", "pool_stride", "pool_mode", "merge"})
    side = config.vision.image_size
    return Viewer((side, side), json.dumps(["policy", seen, weights_digest(tower)]), policy.encode)


def reference_viewer(reference: ReferenceModel) -> Viewer:
    """A reference model's own encoder, known by how it sees noise: two models in one folder, one after the other, differ."""
    noise = np.random.default_rng(0).integers(0, 256, (1, *reference.image_size, 3), dtype=np.uint8)
    digest = weights_digest({"noise": reference.encode(noise).half()})
    return Viewer(reference.image_size, json.dumps(["reference", digest]), reference.encode)
