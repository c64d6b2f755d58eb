"""The middle frame of each scene; the scenes are found by PySceneDetect (``pip install 'refocus-video[scenes]'``).

More scenes than frames wanted: the middles of scenes at equal distances in the list of scenes. Fewer: every scene has
one, the others are shared out by length, and several frames of a scene are the middles of its equal stretches. So a
video without cuts gives uniform frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from refocus_video.errors import ConfigError, VideoError, check_budget, one_line
from refocus_video.selectors.base import Pick
from refocus_video.selectors.ranking import apportioned, fitting
from refocus_video.selectors.uniform import uniform_u2
from refocus_video.types import Candidates, FloatArray, IntArray, Question, Timeline

CutFinder = Callable[[str, float], Sequence[float]]
"""From the path of a video and a threshold to the times at which scenes begin, in seconds."""


def scene_positions(cuts: Sequence[float], times: FloatArray, budget: int) -> IntArray:
    """Middles of scenes, (min(K, F),) in temporal order.

    Args:
        cuts: times at which scenes begin, in seconds, in any order.
        times: of the candidates in seconds, (F,).
        budget: K.
    """
    found = np.unique(np.searchsorted(times, np.asarray(cuts, dtype=np.float64)))
    bounds = np.concatenate([[0], found[(found > 0) & (found < len(times))], [len(times)]])
    starts, sizes = bounds[:-1], np.diff(bounds)
    count = fitting(budget, len(times))
    if len(sizes) >= count:
        shown = uniform_u2(len(sizes), count)
        middles: IntArray = starts + sizes // 2
        return middles[shown]
    further = np.maximum(0, sizes * (count / len(times)) - 1)  # what is due to a scene beyond its first frame
    shares = 1 + apportioned(further, count - len(sizes), sizes - 1)
    parts = zip(starts.tolist(), sizes.tolist(), shares.tolist(), strict=True)
    return np.concatenate([start + uniform_u2(size, share) for start, size, share in parts])


def detected_cuts(video: str, threshold: float) -> list[float]:
    """Times at which PySceneDetect's content detector sees a scene begin, in seconds; the file is decoded for it.

    Raises:
        ConfigError: if PySceneDetect is not installed.
        VideoError: if it cannot read the video.
    """
    try:
        import scenedetect
    except ImportError as error:
        raise ConfigError(
            f"scene cuts need PySceneDetect ({error}); run pip install 'refocus-video[scenes]', or choose another selector"
        ) from None
    try:
        scenes = scenedetect.detect(video, scenedetect.ContentDetector(threshold), backend="pyav")
    except (OSError, RuntimeError, ValueError) as error:
        raise VideoError(f"{video}: PySceneDetect cannot look for cuts ({one_line(error)})") from None
    return [float(start.seconds) for start, _ in scenes]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """The middles of scenes (PySceneDetect), whatever is asked."""

    threshold: Annotated[float, Field(gt=0)] = 27.0
    """Mean change of hue, saturation and brightness that makes a cut; PySceneDetect's own default."""
    find: CutFinder = detected_cuts
    name: str = "scenes"

    def open(self, candidates: Candidates | Timeline) -> "OpenScenes":
        """Find the cuts."""
        return OpenScenes(self.find(candidates.video, self.threshold), candidates.times)


@dataclass(frozen=True, slots=True)
class OpenScenes:
    """A video whose cuts are known."""

    cuts: Sequence[float]
    times: FloatArray

    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """The same for every question."""
        check_budget(budget, len(self.times))
        return [Pick(scene_positions(self.cuts, self.times, budget)) for _ in questions]
