"""What is sent to an OpenAI-compatible server. Pure.

Two forms of the same frames:

- ``images``: one ``image_url`` part a frame, each after a text part with its time. Every server that sees pictures takes this,
  and vLLM keeps what its vision tower made of a picture, so a frame that many subsets hold is looked at once;
- ``video``: one ``video_url`` part that lists the frames (``data:video/jpeg;base64,f1,f2,…``), as vLLM takes them, with
  ``media_io_kwargs`` that tell their true times: frame numbers of a video with one frame a millisecond. Without
  ``num_frames: -1`` vLLM would keep only 32 of them.
"""

import base64
from collections.abc import Sequence
from typing import Any

from refocus_video.config import FramesAs

_TICKS_PER_SECOND = 1000


def chat_body(
    model: str,
    pictures: Sequence[bytes],
    times: Sequence[float],
    text: str,
    *,
    frames_as: FramesAs,
    media_type: str,
    top_logprobs: int | None = None,
    max_tokens: int = 1,
    extra: dict[str, Any],
) -> dict[str, Any]:
    """The body of ``POST /chat/completions`` that asks for the most probable answer.

    Args:
        model: as the server names it.
        pictures: compressed frames in temporal order; may be empty.
        times: seconds of each.
        text: the question.
        frames_as: form of the frames.
        media_type: of the pictures, e.g. ``image/jpeg``.
        top_logprobs: how many of the likeliest tokens in the place of each to ask for; None for none.
        max_tokens: of the answer.
        extra: further fields; they win over these.
    """
    frames = _as_images(pictures, times, media_type) if frames_as == "images" else _as_video(pictures)
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": [*frames, {"type": "text", "text": text}]}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    if top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": top_logprobs}
    if frames_as == "video" and pictures:
        body["media_io_kwargs"] = {"video": _true_times(times)}
    return body | extra


def _as_images(pictures: Sequence[bytes], times: Sequence[float], media_type: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for picture, time in zip(pictures, times, strict=True):
        parts.append({"type": "text", "text": f"Frame at {time:.1f} s:"})
        parts.append({"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{_base64(picture)}"}})
    return parts


def _as_video(pictures: Sequence[bytes]) -> list[dict[str, Any]]:
    if not pictures:
        return []
    listed = ",".join(map(_base64, pictures))
    return [{"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{listed}"}}]


def _true_times(times: Sequence[float]) -> dict[str, Any]:
    ticks = [round(time * _TICKS_PER_SECOND) for time in times]
    return {
        "num_frames": -1,
        "fps": float(_TICKS_PER_SECOND),
        "total_num_frames": ticks[-1] + 1,
        "frames_indices": ticks,
    }


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode("ascii")
