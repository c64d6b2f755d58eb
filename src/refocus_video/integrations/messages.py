"""Chat messages whose videos become frames, in the form that lmms-eval hands to its chat models. Pure.

A message is ``{"role": ..., "content": [part, ...]}``; a part is ``{"type": "text", "text": ...}``, or an image, a video or a sound
with its ``url``: a path, or a record with a path and the stretch of the video that is meant.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from refocus_video.data.datasets.options import without_letters
from refocus_video.errors import DataError
from refocus_video.types import Question

Message = dict[str, Any]
Part = dict[str, Any]
Frame = tuple[float, Any]
"""Time in seconds and picture."""

LABELS: Final[dict[str, Callable[[int, float], str | None]]] = {
    "seconds": lambda number, time: f"<{time:.1f} seconds>",
    "clock": lambda number, time: f"{int(time) // 60:02d}:{int(time) % 60:02d}",
    "number": lambda number, time: f"Frame{number}: ",
    "none": lambda number, time: None,
}
"""What stands before a frame: (number from 1, time in seconds) -> text. Qwen3-VL was taught ``seconds``, InternVL ``number``."""

NOT_VIDEOS: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".wav", ".mp3", ".flac", ".ogg", ".m4a"}
)
QUESTION_FIELDS: Final = ("question",)
OPTION_FIELDS: Final = ("options", "candidates", "choices")


@dataclass(frozen=True, slots=True)
class Clip:
    """A video that a question shows, or a stretch of one."""

    path: str
    start_s: float | None = None
    """Seconds from where a player begins; None for the beginning."""
    end_s: float | None = None

    def __str__(self) -> str:
        if self.start_s is None and self.end_s is None:
            return self.path
        return f"{self.path} [{self.start_s or 0:g}..{'' if self.end_s is None else f'{self.end_s:g}'} s]"


def clip_of(part: Any) -> Clip | None:
    """The video of a message part, None for any other part.

    Raises:
        DataError: when the part holds a video in another form than a path, e.g. frames that were read already.
    """
    if not isinstance(part, Mapping) or part.get("type") != "video":
        return None
    url = part.get("url")
    inner: Mapping[str, Any] = url if isinstance(url, Mapping) else {}
    path = next((inner[key] for key in ("url", "path", "video") if key in inner), None) if inner else url
    if not isinstance(path, (str, PurePath)):
        raise DataError(f"frames are chosen from video files; this task hands over a {type(path).__name__}, not a path")
    start = _first_number(part.get("start_time"), inner.get("video_start"))
    end = _first_number(part.get("end_time"), inner.get("video_end"))
    return Clip(str(path).removeprefix("file://"), start, end)


def _first_number(*values: Any) -> float | None:
    return next((float(value) for value in values if value is not None), None)


def clip_of_visual(visual: Any) -> Clip | None:
    """The video of what a simple model is given: a path that is no picture and no sound, or a record with one."""
    if isinstance(visual, Mapping) and visual.get("type", "video") == "video":
        return clip_of({"type": "video", "url": visual})
    if isinstance(visual, str) and PurePath(visual).suffix.lower() not in NOT_VIDEOS:
        return clip_of({"type": "video", "url": visual})
    return None


def parts_of(messages: Iterable[Message]) -> list[Any]:
    """All parts of all messages; a content that is a plain text is one part."""
    return [
        part
        for message in messages
        for part in (
            [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else message["content"]
        )
    ]


def prompt_of(messages: Iterable[Message]) -> str:
    """The texts of what the user says."""
    texts = [part for part in parts_of(m for m in messages if m.get("role") == "user") if part.get("type") == "text"]
    return "\n".join(part["text"] for part in texts)


def with_frames(
    messages: Sequence[Message], frames_of: Callable[[Clip], Sequence[Frame]], labels: str
) -> list[Message]:
    """Messages in which every video is replaced by its frames, each after its label; all else is as before.

    Args:
        messages: are left as they are.
        frames_of: a video -> its frames in temporal order.
        labels: a key of :data:`LABELS`.
    """
    label = LABELS[labels]

    def replaced(part: Any) -> list[Any]:
        clip = clip_of(part)
        if clip is None:
            return [part]
        shown: list[Part] = []
        for number, (time, picture) in enumerate(frames_of(clip), start=1):
            text = label(number, time)
            shown += [] if text is None else [{"type": "text", "text": text}]
            shown.append({"type": "image", "url": picture})
        return shown

    return [
        message
        if isinstance(message["content"], str)
        else message | {"content": [new for part in message["content"] for new in replaced(part)]}
        for message in messages
    ]


def question_of(
    doc: Mapping[str, Any], prompt: str, question_from: str = "auto", options_from: str = "auto"
) -> Question:
    """What a selector is asked.

    The prompt begins with instructions in many tasks, which say nothing of the video and may be all that a text encoder
    reads; so the question comes from the task's record where there is one.

    Args:
        doc: the task's record.
        prompt: the whole text that the model gets.
        question_from: the field of the record with the question, ``prompt`` for the whole prompt, or ``auto``: the field
            :data:`QUESTION_FIELDS` where it holds a text, else the prompt.
        options_from: the field with the list of options, ``none``, or ``auto``: the first list of texts among
            :data:`OPTION_FIELDS`. They are left out when the question is the prompt, which names them.

    Raises:
        DataError: if a field that was named does not hold what it should.
    """
    text = None
    if question_from != "prompt":
        text = _text(doc, QUESTION_FIELDS if question_from == "auto" else (question_from,))
        if text is None and question_from != "auto":
            raise DataError(f"question_from={question_from}: no text there; the task's records have {_fields(doc)}")
    if text is None:
        return Question(prompt)
    if options_from == "none":
        return Question(text)
    options = _texts(doc, OPTION_FIELDS if options_from == "auto" else (options_from,))
    if options is None and options_from != "auto":
        raise DataError(
            f"options_from={options_from}: no list of two texts or more there; the task's records have {_fields(doc)}"
        )
    return Question(text, options or ())


def _text(doc: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    return next((doc[name] for name in fields if isinstance(doc.get(name), str) and doc[name].strip()), None)


def _texts(doc: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...] | None:
    for name in fields:
        values = doc.get(name)
        if isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values):
            options = tuple(dict.fromkeys(without_letters(tuple(values))))
            if len(options) > 1:
                return options
    return None


def _fields(doc: Mapping[str, Any]) -> str:
    return ", ".join(map(str, doc))
