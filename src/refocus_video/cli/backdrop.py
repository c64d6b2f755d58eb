"""Real videos as the background of haystack videos."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refocus_video.data.haystack.render import SIZE
from refocus_video.errors import DataError, VideoError
from refocus_video.types import ByteArray
from refocus_video.video.reader import VideoReader

SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts", ".m4v", ".gif"})


@dataclass(frozen=True, slots=True)
class RealBackdrop:
    """Stretches of real videos: a random file, from a random place, forwards and backwards until there are enough frames."""

    paths: tuple[str, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> "RealBackdrop":
        """All videos of a folder that can be read.

        Raises:
            DataError: if there is none, or one of them cannot be read.
        """
        paths = sorted(str(p) for p in folder.glob("**/*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise DataError(f"no video files in {folder}; looked for {', '.join(sorted(SUFFIXES))}")
        for path in paths:
            try:
                with VideoReader(path):
                    pass
            except VideoError as error:
                raise DataError(f"a background cannot be used: {error}; remove it from the folder") from None
        return cls(tuple(paths))

    @property
    def __name__(self) -> str:
        return "real:" + ",".join(Path(path).name for path in self.paths)

    def __call__(self, rng: np.random.Generator, num_frames: int) -> ByteArray:
        """(num_frames, SIZE, SIZE, 3)."""
        with VideoReader(self.paths[int(rng.integers(len(self.paths)))]) as reader:
            total = reader.info.num_frames
            start = int(rng.integers(max(1, total - num_frames)))
            pictures = reader.read(np.arange(start, min(total, start + num_frames)), (SIZE, SIZE))
        there_and_back = np.concatenate((np.arange(len(pictures)), np.arange(len(pictures))[::-1]))
        return pictures[np.resize(there_and_back, num_frames)]
