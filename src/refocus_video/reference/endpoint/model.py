"""An OpenAI-compatible server (vLLM, SGLang, OpenAI, …) as a reference model.

Every subset is one request. For scores it is for one token: the score of an option is the log-probability of its letter, read from
the likeliest tokens that the server lists (METHOD §4). Requests run side by side, replies are kept on disk.

Dimensions: F candidate frames · G subsets of a question · O options.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from refocus_video.config import EndpointConfig
from refocus_video.errors import QuestionError, ReferenceModelError
from refocus_video.reference.base import ScoreRequest, whole
from refocus_video.reference.endpoint.cache import ReplyCache, request_key
from refocus_video.reference.endpoint.client import EndpointClient
from refocus_video.reference.endpoint.messages import chat_body
from refocus_video.reference.endpoint.pictures import compress, from_row, to_rows
from refocus_video.reference.endpoint.replies import Reply, option_log_probs
from refocus_video.reference.letters import check_lettered, lettered
from refocus_video.types import ByteArray

_PATIENCE = 16
"""Replies without any option's letter, from the first on, after which the model is taken to answer in another way."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked and what it took; adds up."""

    requests: int = 0
    """Subsets that were scored, from the server or from the cache."""
    cached: int = 0
    """The part of them that came from the cache and cost nothing."""
    retries: int = 0
    prompt_tokens: int = 0
    """As the server counts them, like the next."""
    completion_tokens: int = 0
    missing_letters: int = 0
    """Options whose letter was not among the tokens listed; they got the bound that the list gives."""
    unanswered: int = 0
    """Replies in which no option's letter was listed."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def cost(self, config: EndpointConfig) -> float:
        """Price of the tokens, in the currency of the configured prices."""
        paid = self.prompt_tokens * config.price_per_million_in + self.completion_tokens * config.price_per_million_out
        return paid / 1e6


@dataclass(frozen=True, slots=True)
class _Job:
    """One subset of one request."""

    pictures: Tensor
    """Of all candidates, (F, bytes)."""
    request: ScoreRequest
    subset: tuple[int, ...]
    max_new_tokens: int | None = None
    """Length of a written answer; None for scores."""


class EndpointReference:
    """A model of a server behind :class:`refocus_video.reference.base.ReferenceModel`."""

    def __init__(self, model: str, config: EndpointConfig) -> None:
        """Nothing is sent.

        Args:
            model: as the server names it.
            config: the server and how to talk to it.
        """
        self.model = model
        self.config = config
        self.used = Usage()
        self._client = EndpointClient(config)
        self._cache = ReplyCache(None if config.cache is None else Path(config.cache))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frames that are sent, in pixels."""
        return self.config.image_size

    @property
    def identity(self) -> str:
        """All that its scores depend on, as far as this side knows: server, model, pictures and further fields, as JSON."""
        names = {"url", "image_size", "image_format", "jpeg_quality", "frames_as", "top_logprobs", "extra_body"}
        return json.dumps({"model": self.model, **self.config.model_dump(mode="json", include=names)}, sort_keys=True)

    @property
    def usage(self) -> dict[str, Any]:
        """Requests, tokens and cost so far, for a report."""
        counts = {f.name: getattr(self.used, f.name) for f in fields(self.used)}
        return {"model": self.model, "url": self.config.url, **counts, "cost": self.used.cost(self.config)}

    def encode(self, frames: ByteArray) -> Tensor:
        """Frames (F, H, W, 3) uint8 as compressed pictures, (F, bytes) uint8."""
        config = self.config
        return to_rows([compress(frame, config.image_format, config.jpeg_quality) for frame in frames])

    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """Log-probability of every option's letter for every subset: one (G, O) float32 tensor a request.

        A subset that several requests ask about is sent once.

        Raises:
            ReferenceModelError: if the server refuses, fails too often, or gives no log-probabilities.
        """
        for request in requests:
            if request.texts is not None:
                raise QuestionError(
                    f"endpoint {self.config.url}: a server does not tell how likely a given text is, and question "
                    f"{request.question.text!r} has no options; score it with a local model"
                )
            check_lettered(request.question)
        return [torch.tensor(rows, dtype=torch.float32) for rows in self._each(requests, None)]

    def generate(self, requests: Sequence[ScoreRequest], max_new_tokens: int) -> list[list[str]]:
        """The written answer to every subset, one list a request; works with servers that give no log-probabilities.

        Raises:
            ReferenceModelError: if the server refuses or fails too often.
        """
        return self._each(requests, max_new_tokens)

    def _each(self, requests: Sequence[ScoreRequest], max_new_tokens: int | None) -> list[list[Any]]:
        """What comes back for every subset of every request; what several ask for is sent once."""
        jobs: dict[tuple[Any, ...], _Job] = {}
        places: list[list[tuple[Any, ...]]] = []
        pictures = {id(request.features): whole(request.features) for request in requests}
        for request in requests:
            video = id(request.features)
            rows = [tuple(subset) for subset in request.subsets.tolist()]
            keys = [(video, request.question, row) for row in rows]
            jobs |= {
                key: _Job(pictures[video], request, row, max_new_tokens) for key, row in zip(keys, rows, strict=True)
            }
            places.append(keys)
        found = dict(zip(jobs, self._run(list(jobs.values())), strict=True))
        return [[found[key] for key in keys] for keys in places]

    def _run(self, jobs: list[_Job]) -> list[Any]:
        """Scores or texts of the jobs in their order; the first error, of whichever job, ends them all."""
        self._client.resume()
        pool = ThreadPoolExecutor(self.config.concurrency)
        try:
            futures = [pool.submit(self._do, job) for job in jobs]
            for future in as_completed(futures):
                self.used += future.result()[1]
                if self.used.unanswered == self.used.requests >= _PATIENCE:
                    raise ReferenceModelError(
                        f"endpoint {self.config.url}: none of the first {_PATIENCE} replies of {self.model!r} begins with an "
                        f"option's letter; a model that thinks first must be told not to (reference.endpoint.extra_body)"
                    )
            return [future.result()[0] for future in futures]
        finally:
            self._client.stop()
            pool.shutdown(cancel_futures=True)

    def _do(self, job: _Job) -> tuple[list[float] | str, Usage]:
        config, request, scored = self.config, job.request, job.max_new_tokens is None
        body = chat_body(
            self.model,
            [from_row(job.pictures[position]) for position in job.subset],
            [float(request.times[position]) for position in job.subset],
            lettered(request.question) if request.question.options else request.question.text,
            frames_as=config.frames_as,
            media_type=f"image/{config.image_format}",
            top_logprobs=config.top_logprobs if scored else None,
            max_tokens=job.max_new_tokens or 1,
            extra=config.extra_body,
        )
        reply, used = self._reply(body, scored)
        if not scored:
            return reply.text, used
        options = len(request.question.options)
        values, missing = option_log_probs(reply.top, options)
        return values, used + Usage(missing_letters=missing, unanswered=int(missing == options))

    def _reply(self, body: dict[str, Any], scored: bool) -> tuple[Reply, Usage]:
        key = request_key(self.config.url, body)
        kept = self._cache.get(key)
        if kept is not None:
            return kept, Usage(requests=1, cached=1)
        reply, retries = self._client.ask(body)
        if scored and not reply.top:
            raise ReferenceModelError(
                f"endpoint {self.config.url}: {self.model!r} gives no log-probabilities (top_logprobs), and scores are made of "
                f"them; use a server that gives them, such as vLLM"
            )
        self._cache.put(key, reply)
        return reply, Usage(1, 0, retries, reply.prompt_tokens, reply.completion_tokens)
