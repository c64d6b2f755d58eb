"""The one-call interface: :func:`select`."""

from pathlib import Path
from typing import Unpack

from refocus_video.assets import HAYSTACK_TINY, locate
from refocus_video.selectors.learned import FrameSelector
from refocus_video.selectors.picking import Options
from refocus_video.types import Question, Selection


def select(
    video: str | Path,
    question: str | Question,
    frames: int = 8,
    *,
    policy: str | Path = HAYSTACK_TINY,
    device: str = "auto",
    **options: Unpack[Options],
) -> Selection:
    """Pick ``frames`` frames of a video for a question.

    To ask several questions of one video, use :class:`FrameSelector` and its ``open``: the video is then looked at once.

    Args:
        video: path of a video file.
        question: its text, or a :class:`Question` with options.
        frames: the budget.
        policy: folder or hub id of a trained policy. The default comes with the package and knows only the generated
            videos of the demo; on other videos it runs, but its choice means little.
        device: "cuda", "cuda:1", "mps" or "cpu"; "auto" takes the first of them that is there.
        **options: how to choose: temperature, seed, strategy, samples, min_gap, forced; see :meth:`FrameSelector.select`.

    Raises:
        RefocusError: in one clear line, when the video, the question or the budget cannot be used.
    """
    selector = FrameSelector.from_pretrained(locate(str(policy), "policy"), device=device)
    return selector.select(video, question, frames, **options)
