"""From records to examples: each video looked up, each row that is left out counted with its reason."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from refocus_video.data.datasets.record import Record, Unusable
from refocus_video.data.datasets.videos import VideoFolder
from refocus_video.errors import DataError, VideoError
from refocus_video.types import Example, FloatArray, Span

AROUND_S = 1.0
"""Seconds on each side of a frame that a data set names as evidence: candidates are rarely that very frame."""


@dataclass(slots=True)
class Tally:
    """What became of the rows of a data set."""

    written: int = 0
    videos: set[str] = field(default_factory=set)
    missing: Counter[str] = field(default_factory=Counter)
    """Questions of each video that was not found, by the video's name and what was wrong with it."""
    left_out: list[dict[str, str]] = field(default_factory=list)
    """Every row that is not among the examples: its id and the reason."""
    renamed: int = 0
    """Examples whose id was used before and got a number behind it."""
    without_evidence: int = 0
    """Examples whose evidence is given in frames that their video does not have."""

    @property
    def asked(self) -> int:
        """Rows in all."""
        return self.written + len(self.left_out)

    def reasons(self) -> dict[str, int]:
        """How many rows were left out for which reason; missing videos count as one reason."""
        missing = sum(self.missing.values())
        counts = Counter(row["reason"] for row in self.left_out if row["reason"] not in self.missing)
        return dict(counts) | ({"video not found": missing} if missing else {})

    def leave_out(self, id: str, reason: str) -> None:
        """Count a row that is no example."""
        self.left_out.append({"id": id, "reason": reason})


def convert(
    rows: Iterable[Record | Unusable],
    videos: VideoFolder,
    frame_times: Callable[[str], Sequence[float] | FloatArray],
    tally: Tally,
) -> Iterator[Example]:
    """Examples with the paths of their videos, one by one.

    Args:
        rows: from a reader.
        videos: where the videos lie.
        frame_times: presentation time in seconds of every frame of a video file; may raise :class:`VideoError`.
        tally: is filled on the way.
    """
    used: Counter[str] = Counter()
    found: dict[tuple[str, ...], str | DataError] = {}
    for row in rows:
        if isinstance(row, Unusable):
            tally.leave_out(row.id, row.reason)
            continue
        if row.videos not in found:
            found[row.videos] = _look_up(videos, row.videos)
        video = found[row.videos]
        if isinstance(video, DataError):
            reason = f"video {row.videos[0]}: {video}"
            tally.missing[reason] += 1
            tally.leave_out(row.example.id, reason)
            continue
        example = replace(row.example, id=_fresh(row.example.id, used), video=video)
        tally.renamed += example.id != row.example.id
        if row.frames:
            example = replace(example, evidence=_around(row.frames, video, frame_times))
            tally.without_evidence += not example.evidence
        tally.written += 1
        tally.videos.add(video)
        yield example


def _look_up(videos: VideoFolder, names: tuple[str, ...]) -> str | DataError:
    try:
        return str(videos.find(*names))
    except DataError as error:
        return error


def _fresh(id: str, used: Counter[str]) -> str:
    used[id] += 1
    if used[id] == 1:
        return id
    return _fresh(f"{id}-{used[id]}", used)


def _around(
    frames: Sequence[int], video: str, frame_times: Callable[[str], Sequence[float] | FloatArray]
) -> tuple[Span, ...]:
    """Stretches around some frames, those that overlap joined; none if the video cannot be read or is shorter."""
    try:
        times = frame_times(video)
    except VideoError:
        return ()
    if max(frames) >= len(times):
        return ()
    spans: list[Span] = []
    for frame in sorted(frames):
        span = Span(max(0.0, float(times[frame]) - AROUND_S), float(times[frame]) + AROUND_S)
        if spans and span.start_s <= spans[-1].end_s:
            span = Span(spans.pop().start_s, span.end_s)
        spans.append(span)
    return tuple(spans)
