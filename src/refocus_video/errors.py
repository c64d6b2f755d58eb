"""Every error a user can meet, in one tree.

::

    RefocusError (ValueError)        one clear line: what was asked, what was found, what to do
    ├── VideoError                   a file that cannot be read as a video, or a frame it does not hold
    ├── DataError                    a question file or record that does not hold what it must
    ├── ConfigError                  a setting that is unknown, of the wrong type, or out of range
    ├── BudgetError                  a number of frames that cannot be picked
    ├── CheckpointError              weights or a folder that do not fit the model
    ├── StoreError                   a stored video index that cannot be read or written
    └── ReferenceModelError          a reference model that cannot score what it was given
        ├── QuestionError            a question that this model cannot be asked; others it can
        └── ServiceError             a server that fails or refuses, whatever the question: nothing is recorded of it

All derive from :class:`ValueError`, so a caller who only knows Python can catch them. The command line prints the
message and exits with code 2. Broken invariants of our own are ``AssertionError`` and keep their traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class RefocusWarning(UserWarning):
    """Something was found damaged or could not be kept, and the work goes on without it; the command line prints one line."""


class RefocusError(ValueError):
    """Base of every error caused by what the user gave."""


class VideoError(RefocusError):
    """A file cannot be read as a video, or does not hold the frame that was asked for."""


class DataError(RefocusError):
    """A record of a question file is missing something or holds something impossible."""


class ConfigError(RefocusError):
    """A setting is unknown, has the wrong type, or is out of range."""


class BudgetError(RefocusError):
    """The number of frames asked for cannot be picked from the candidates."""


class CheckpointError(RefocusError):
    """A checkpoint folder is incomplete, or its weights do not fit the model."""


class StoreError(RefocusError):
    """A stored video index is damaged or not what its name says, or one cannot be written."""


class ReferenceModelError(RefocusError):
    """A reference model cannot score what it was given."""


class QuestionError(ReferenceModelError):
    """One question cannot be put to a reference model, or not with so many frames."""


class ServiceError(ReferenceModelError):
    """A server that fails, refuses or does not answer, whatever it is asked: the run ends and nothing is recorded of it.

    What passes (an outage, too many requests) has been tried again before; run again, a command goes on where it ended.
    """


def one_line(reason: object) -> str:
    """What someone else's error says, as part of a line of ours: without line breaks, at most 300 characters of it.

    An error of the operating system keeps its reason alone, without the number and the path.
    """
    return " ".join(str(getattr(reason, "strerror", None) or reason).split())[:300]


def shortened(value: object, most: int = 200) -> str:
    """How a value is shown in an error: not more of it than fits a line."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """`` (did you mean …?)`` for a name that is nearly a known one, else nothing: a part of an error's line."""
    near = get_close_matches(str(name)[:100], list(known), n=1, cutoff=0.7)
    return f" (did you mean {near[0]!r}?)" if near else ""


OF_ONE_VIDEO = (VideoError, BudgetError, DataError, QuestionError)
"""What one video or question can cause: a run counts it and goes on. Anything else would hit the next one too, and ends the run,
which can be gone on with once it is mended."""


def at_most(budget: int, num_candidates: int) -> int:
    """How many frames a video gives for a budget: all of them where it has fewer candidates.

    Raises:
        BudgetError: the budget is not at least 1, or there is no candidate.
    """
    check_budget(budget, max(budget, num_candidates))
    check_budget(1, num_candidates)
    return min(budget, num_candidates)


def check_budget(budget: int, num_candidates: int) -> None:
    """Raise :class:`BudgetError` unless ``1 <= budget <= num_candidates``."""
    if not 1 <= budget <= num_candidates:
        have = "1 candidate frame" if num_candidates == 1 else f"{num_candidates} candidate frames"
        raise BudgetError(
            f"asked for {budget} frames, but the video gives {have}; choose a number from 1 to {num_candidates}"
        )
