"""A question file that may be too large for memory: where each video's questions stand in it, and the questions when asked for."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from refocus_video.data.examples import example_at, fingerprint, located_examples
from refocus_video.types import Example


class QuestionFile:
    """Questions by video. Reading the file once checks all of it; what stays in memory is a number a question."""

    def __init__(
        self, path: Path, checked: Callable[[Iterable[Example]], Iterable[Example]] = lambda examples: examples
    ) -> None:
        """``checked`` hands the examples on, and may raise at one of them. Errors are those of ``read_examples``."""
        self.path = path
        self._lines: dict[str, list[int]] = {}
        self.fingerprint = fingerprint(checked(self._noted()))
        """A short name for these very questions, as :func:`refocus_video.data.examples.fingerprint` gives it."""
        self._stream = path.open("rb")

    def _noted(self) -> Iterator[Example]:
        for offset, example in located_examples(self.path):
            self._lines.setdefault(example.video, []).append(offset)
            yield example

    def __len__(self) -> int:
        """How many questions there are."""
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Example]:
        """All questions in the order of the file, which is read again."""
        return (example for _, example in located_examples(self.path))

    @property
    def videos(self) -> list[str]:
        """All videos in order of first appearance."""
        return list(self._lines)

    def count(self, video: str) -> int:
        """How many questions a video has."""
        return len(self._lines[video])

    def about(self, video: str) -> list[Example]:
        """The questions about one video, in the order of the file."""
        return [example_at(self._stream, offset, self.path) for offset in self._lines[video]]
