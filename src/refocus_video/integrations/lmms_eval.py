"""Frame selection inside lmms-eval: one model, ``refocus``, that lets any of its models answer from chosen frames.

lmms-eval gives a video to a model as a path, and every model samples frames in its own way. This model rewrites what a task
says — a video becomes its chosen frames, as pictures with their times — and hands everything else on. All frames are chosen before
the inner model starts, video by video; pictures are read when it asks for them. See docs/lmms-eval.md.
"""

import copy
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from refocus_video.assets import locate
from refocus_video.errors import ConfigError, DataError
from refocus_video.integrations.frames import Asked, Choosing, Frames, Given, Source
from refocus_video.integrations.lmms_plugin import NAME
from refocus_video.integrations.lmms_settings import LmmsSettings, split_arguments
from refocus_video.integrations.messages import (
    Clip,
    Frame,
    clip_of,
    clip_of_visual,
    parts_of,
    prompt_of,
    question_of,
    with_frames,
)
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors.known import Parts, make_selector
from refocus_video.selectors.relevance import Relevance

Record = Mapping[str, Any]
FramesOf = Callable[[Clip], Sequence[Frame]]


class Refocus(lmms):  # type: ignore[misc]
    """A chat model of lmms-eval that sees chosen frames in place of videos."""

    is_simple = False

    def __init__(self, **arguments: Any) -> None:
        """Make the selector, then the model that answers; see :class:`LmmsSettings` for the arguments."""
        self.settings, of_selector, of_model = split_arguments(arguments)
        settings = self.settings
        source = _source(settings, of_selector)
        self.inner = _inner(settings.model, self.is_simple, of_model)
        self.frames = Frames(
            source,
            pixels=settings.frame_pixels,
            save=settings.save_selections and _of_rank(settings.save_selections),
        )
        self._records: dict[tuple[Any, ...], tuple[str, str]] = {}
        self._without_video = 0
        logger.info(f"refocus: {source.manifest} for {settings.model} {of_model}")

    def __getattr__(self, name: str) -> Any:
        """Batch size, device, tokenizer and all else that lmms-eval asks of a model: the inner model's."""
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def _rank(self) -> int:
        return int(self.inner.rank)

    @_rank.setter
    def _rank(self, value: int) -> None:
        self.inner._rank = value

    @property
    def _world_size(self) -> int:
        return int(self.inner.world_size)

    @_world_size.setter
    def _world_size(self, value: int) -> None:
        self.inner._world_size = value

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Responses are those of the inner model."""
        self.inner.set_cache_hook(cache_hook)

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answers of the inner model; empty where there are no frames."""
        return self._answered("generate_until", requests)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Answers of the inner model."""
        return self._answered("generate_until_multi_round", requests)

    def generate_visual_cot(self, requests: Sequence[Any]) -> list[Any]:
        """Answers of the inner model."""
        return self._answered("generate_visual_cot", requests)

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Log-likelihoods by the inner model."""
        return self._answered("loglikelihood", requests)

    def clean(self) -> None:
        """Tell what happened, and free memory: lmms-eval calls this when all is answered."""
        lines = self.frames.report()
        if self._without_video:
            lines.append(f"requests without a video, handed on as they are: {self._without_video}")
        (logger.warning if self.frames.failures() else logger.info)("refocus: " + "\n         ".join(lines))
        self.inner.clean()

    def _answered(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        """Choose, let the inner model answer, and put an empty answer where it had no frames.

        Raises:
            DataError: if frames are missing, unless such questions are counted and an empty answer exists.
        """
        ids = self._choose(requests)
        self._refuse(kind, ids)
        ready = [self.frames.failure(id) is None for id in ids]
        passed = [self._rewritten(request) for request, ok in zip(requests, ready, strict=True) if ok]
        answers = iter(getattr(self.inner, kind)(passed) if passed else [])
        found = [next(answers) if ok else "" for ok in ready]
        self._refuse(kind, ids)  # pictures are read while the inner model runs, and some models swallow errors
        return ["" if self.frames.failure(id) else answer for id, answer in zip(ids, found, strict=True)]

    def _refuse(self, kind: str, ids: Sequence[str]) -> None:
        failed = [(id, reason) for id in dict.fromkeys(ids) if (reason := self.frames.failure(id))]
        if failed and (self.settings.on_error == "raise" or kind != "generate_until"):
            id, reason = failed[0]
            counted = "; on_error=count gives them an empty answer" if kind == "generate_until" else ""
            raise DataError(
                f"questions without frames: {len(failed)} of {len(set(ids) - {''})}; the first is {id}: {reason}{counted}"
            )

    def _choose(self, requests: Sequence[Any]) -> list[str]:
        """Choose the frames of all requests; returns the id of each one's record, empty for those without a video."""
        asked: list[Asked] = []
        ids: list[str] = []
        for request in requests:
            new = self._asked(request)
            ids.append(new[0].id if new else "")
            asked += new
        self._without_video += ids.count("")
        with tqdm(total=len(asked), desc="Choosing frames", disable=self.rank != 0) as bar:
            self.frames.choose(asked, bar.update)
        return ids

    def _asked(self, request: Any) -> list[Asked]:
        """What a request asks, a question for each of its videos."""
        if not self._has_media(request):
            return []
        *_, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        field = self.settings.id_from
        if field is not None and field not in doc:
            raise ConfigError(f"id_from={field}: the records of {task} have {', '.join(map(str, doc))}")
        id = f"{task}/{split}/{doc_id}" if field is None else str(doc[field])
        self._records[_content(doc)] = id, request.args[0]
        found = request.args[self._media_at](doc)
        return [self._about(doc, clip, found) for clip in self._clips(found)]

    def _about(self, doc: Record, clip: Clip, found: Any) -> Asked:
        id, context = self._records[_content(doc)]
        prompt = self._prompt(found, context)
        return Asked(id, clip, question_of(doc, prompt, self.settings.question_from, self.settings.options_from))

    def _has_media(self, request: Any) -> bool:
        return len(request.args) > self._media_at and callable(request.args[self._media_at])

    def _rewritten(self, request: Any) -> Any:
        """A request whose function gives frames in place of videos.

        Models call the function of one request with the records of others, so what is shown depends on the record alone.
        """
        if not self._has_media(request):
            return request
        original = request.args[self._media_at]

        @functools.wraps(original)
        def rewritten(doc: Record, *args: Any, **kwargs: Any) -> Any:
            found = original(doc, *args, **kwargs)
            return self._replaced(found, lambda clip: self._shown(self._about(doc, clip, found)))

        other = copy.copy(request)
        other.arguments = tuple(rewritten if i == self._media_at else arg for i, arg in enumerate(request.args))
        return other

    def _shown(self, asked: Asked) -> list[Frame]:
        frames = self.frames.show(asked)
        if not frames and self.settings.on_error == "raise":
            raise DataError(f"{asked.id}: {self.frames.failure(asked.id)}")
        return frames

    # What follows knows how a chat model is given videos.

    _media_at = 1
    """Where in the arguments of a request the function stands that gives a record's messages."""

    def _clips(self, found: Any) -> list[Clip]:
        return [clip for part in parts_of(_messages(found)) if (clip := clip_of(part)) is not None]

    def _prompt(self, found: Any, context: str) -> str:
        return prompt_of(_messages(found))

    def _replaced(self, found: Any, frames_of: FramesOf) -> Any:
        messages = with_frames(_messages(found), frames_of, self.settings.time_labels)
        return (messages if found[0] is not None else None, *found[1:]) if isinstance(found, tuple) else messages


class RefocusSimple(Refocus):
    """The same for simple models (``--force_simple``): they get a list of pictures in place of a video's path, without times."""

    is_simple = True
    _media_at = 2

    def _clips(self, found: Any) -> list[Clip]:
        return [clip for visual in found or [] if (clip := clip_of_visual(visual)) is not None]

    def _prompt(self, found: Any, context: str) -> str:
        return context

    def _replaced(self, found: Any, frames_of: FramesOf) -> Any:
        shown: list[Any] = []
        for visual in found or []:
            clip = clip_of_visual(visual)
            shown += [visual] if clip is None else [picture for _, picture in frames_of(clip)]
        return shown


def _messages(found: Any) -> list[Any]:
    """The messages of a round; those of a later round come with what the round knows, and the last round has none."""
    return (found[0] if isinstance(found, tuple) else found) or []


def _content(doc: Record) -> tuple[Any, ...]:
    """What tells a record from others: its plain values."""

    def plain(value: Any) -> bool:
        return isinstance(value, (str, int, float)) or (isinstance(value, list) and all(map(plain, value)))

    return tuple((key, repr(value)) for key, value in doc.items() if plain(value))


def _source(settings: LmmsSettings, of_selector: Mapping[str, Any]) -> Source:
    if settings.selections is not None:
        return Given(settings.selections, settings.budget, settings.selector)
    device = _device(settings.selector_device)
    parts = Parts(
        scorer=settings.relevance and Relevance.from_pretrained(locate(settings.relevance, "relevance"), device=device),
        policy=settings.policy and FramePolicy.from_pretrained(locate(settings.policy, "policy")).to(device),
    )
    made = make_selector(str(settings.selector), parts, **of_selector)
    values = {"policy": settings.policy, "relevance": settings.relevance} | dict(of_selector)
    described = ",".join([str(settings.selector), *(f"{k}={v}" for k, v in values.items() if v is not None)])
    return Choosing(made, settings.budget, settings.sampling, described)


def _device(name: str | None) -> torch.device:
    if name is not None or not torch.accelerator.is_available():
        return torch.device(name or "cpu")
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


def _inner(name: str, simple: bool, arguments: Mapping[str, Any]) -> Any:
    """The model of lmms-eval that answers.

    Raises:
        ConfigError: if there is none of this name, or it is of the other kind.
    """
    from lmms_eval.models import MODEL_REGISTRY_V2

    known = MODEL_REGISTRY_V2
    if name not in known.list_model_names() or known.resolve(name).model_id == NAME:
        raise ConfigError(f"model={name}: lmms-eval has no such model to answer; `lmms-eval models` lists them")
    if simple != (known.resolve(name, force_simple=simple).model_type == "simple"):
        advice = "leave out --force_simple" if simple else "add --force_simple"
        raise ConfigError(f"model={name} is a {'chat' if simple else 'simple'} model of lmms-eval; {advice}")
    return known.get_model_class(name, force_simple=simple)(**arguments)


def _of_rank(path: Path) -> Path:
    """Every process writes a file of its own."""
    rank = int(os.environ.get("RANK", "0"))
    return path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
