"""What is said as a second stream of relevance: subtitles beside the video (``pip install 'refocus-video[subtitles]'``).

Each cue of an ``.srt`` or ``.vtt`` file is a document; BM25 (k1 = 1.5, b = 0.75) says how well it matches the words of
the question. A candidate frame has the score of the best cue that is shown within ``reach_s`` of it. Both streams are
put between 0 and 1, added up with a weight, and put back into the range of the scorer's own scores, which some
selectors count on.

Words are compared as they are written, in lower case: speech that says it in other words is not found.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from refocus_video.errors import ConfigError, DataError, one_line
from refocus_video.selectors.ranking import stretched
from refocus_video.selectors.scored import OpenScorer, Scorer, Seen
from refocus_video.types import Candidates, FloatArray, Question, Timeline

logger = logging.getLogger(__name__)

K1, B = 1.5, 0.75


@dataclass(frozen=True, slots=True)
class Cue:
    """Something that is said."""

    start_s: float
    end_s: float
    text: str


def read_subtitles(path: str | Path) -> list[Cue]:
    """The cues of a subtitle file, in the order of their times; markup is left out.

    Raises:
        ConfigError: if the library that reads them is not installed.
        DataError: if the file is missing, or no subtitle file.
    """
    try:
        import pysubs2
    except ImportError as error:
        raise ConfigError(f"subtitles need pysubs2 ({error}); run pip install 'refocus-video[subtitles]'") from None
    path = Path(path)
    if not path.is_file():
        raise DataError(f"no subtitle file at {path}")
    try:
        lines = pysubs2.load(str(path), encoding="utf-8-sig")
    except (pysubs2.Pysubs2Error, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path} is not readable as subtitles in UTF-8: {one_line(error)}") from None
    cues = [Cue(line.start / 1000, line.end / 1000, line.plaintext.replace("\n", " ").strip()) for line in lines]
    return sorted((cue for cue in cues if cue.text and cue.end_s >= cue.start_s), key=lambda cue: cue.start_s)


def beside(video: str) -> Path | None:
    """The ``.srt`` or ``.vtt`` file that has the name of a video and lies beside it."""
    found = (Path(video).with_suffix(suffix) for suffix in (".srt", ".vtt"))
    return next((path for path in found if path.is_file()), None)


def words(text: str) -> list[str]:
    """Words and numbers in lower case."""
    return re.findall(r"\w+", text.casefold())


def bm25(question: str, texts: Sequence[str]) -> FloatArray:
    """How well each text matches the words of a question, 0 where none of them is in it, (N,)."""
    counts = [Counter(words(text)) for text in texts]
    lengths = np.array([max(1, sum(count.values())) for count in counts], dtype=np.float64)
    scores = np.zeros(len(texts))
    usual = lengths.mean() if texts else 1.0
    for word in set(words(question)):
        often = np.array([count[word] for count in counts], dtype=np.float64)
        holding = int((often > 0).sum())
        rarity = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        scores += rarity * often * (K1 + 1) / (often + K1 * (1 - B + B * lengths / usual))
    return scores


def cue_scores(question: str, cues: Sequence[Cue], times: FloatArray, reach_s: float = 2.0) -> FloatArray:
    """The best matching cue within reach of each candidate, (F,); 0 where nothing fitting is said.

    Args:
        question: its text.
        cues: what is said.
        times: of the candidates in seconds, non-decreasing, (F,).
        reach_s: seconds before and after a cue that count as well.
    """
    scores = np.zeros(len(times))
    if not cues:
        return scores
    starts = np.searchsorted(times, [cue.start_s - reach_s for cue in cues], side="left")
    ends = np.searchsorted(times, [cue.end_s + reach_s for cue in cues], side="right")
    matches = bm25(question, [cue.text for cue in cues])
    for first, last, match in zip(starts, ends, matches, strict=True):
        scores[first:last] = np.maximum(scores[first:last], match)
    return scores


@dataclass
class WithSubtitles:
    """A scorer, and what is said where subtitles lie beside the video."""

    scorer: Scorer
    weight: float = 0.5
    """Of what is said, from 0 to 1; the rest is that of the scorer."""
    reach_s: float = 2.0
    find: Callable[[str], Path | None] = beside
    missing: set[str] = field(default_factory=set)
    """Videos without subtitles: there the scorer decides alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ConfigError(f"the weight of subtitles must lie between 0 and 1, found {self.weight}")

    def open(self, candidates: Candidates | Timeline) -> "OpenWithSubtitles":
        """Let the scorer look, and read the subtitles.

        Raises:
            DataError: if there is a file that cannot be read.
        """
        path = self.find(candidates.video)
        if path is None and candidates.video not in self.missing:
            self.missing.add(candidates.video)
            logger.warning("no subtitles beside %s; frames alone decide there", candidates.video)
        cues = None if path is None else read_subtitles(path)
        return OpenWithSubtitles(self, self.scorer.open(candidates), cues)


@dataclass(frozen=True, slots=True)
class OpenWithSubtitles:
    """A video that was looked at, and its cues."""

    streams: WithSubtitles
    opened: OpenScorer
    cues: Sequence[Cue] | None

    def see(self, question: Question) -> Seen:
        """Both streams in one score; without subtitles, or without a fitting word, the scorer's own."""
        seen = self.opened.see(question)
        spoken = (
            None
            if self.cues is None
            else stretched(cue_scores(question.text, self.cues, seen.times, self.streams.reach_s))
        )
        if spoken is None:
            return seen
        shown = stretched(seen.scores)
        if shown is None:
            return replace(seen, scores=spoken)
        low, high = np.nanmin(seen.scores), np.nanmax(seen.scores)
        both = self.streams.weight * spoken + (1 - self.streams.weight) * shown
        return replace(seen, scores=low + (high - low) * both)
