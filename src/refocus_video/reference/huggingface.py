"""Any Hugging Face video LMM as a reference model.

The model's own code is run on its own weights; only the preparation of pixels and placeholders is done here, because the
official video processors need torchvision, and because the vision tower should see each frame once however many subsets hold
it. A test compares the scores with the plain model call on the same frames.

Two ways to answer (``answer_mode``):

- ``letters``: the options are listed with letters, and the score of an option is the log-probability of its letter as the next
  token (METHOD §4);
- ``words``: the options are not shown, and the score is the mean log-probability of the option's own tokens.

Dimensions: N rows (subset × question) · F frames · K frames in a subset · P tokens a frame · D width · L tokens · O options.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from refocus_video.errors import CheckpointError, ReferenceModelError
from refocus_video.reference.base import ScoreRequest, unique_subsets
from refocus_video.reference.families import FAMILIES, Family
from refocus_video.types import ByteArray, Question

AnswerMode = Literal["letters", "words"]
LETTER_INSTRUCTION = "Answer with the option's letter from the given choices directly."


@dataclass(frozen=True, slots=True)
class Row:
    """One forward pass through the language model: the frames shown, the text, and what may follow."""

    frames: Tensor
    """Visual tokens of the frames in temporal order, (K, P, D)."""
    times: Sequence[float]
    text: str
    continuation: tuple[int, ...] = ()
    """Tokens of the answer so far."""


class HuggingFaceReference:
    """A frozen video LMM behind :class:`refocus_video.reference.base.ReferenceModel`."""

    def __init__(
        self, model: Any, tokenizer: Any, *, answer_mode: AnswerMode = "letters", rows_per_batch: int = 96
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: a ``...ForConditionalGeneration`` of one of :data:`FAMILIES`.
            tokenizer: its tokenizer.
            answer_mode: how options are scored.
            rows_per_batch: how many subsets run at once; on a CPU more is slower, because it no longer fits the caches.
        """
        kind = model.config.model_type
        if kind not in FAMILIES:
            raise ReferenceModelError(f"model type {kind!r} is not supported; supported: {', '.join(FAMILIES)}")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.family: Family = FAMILIES[kind]
        self.answer_mode: AnswerMode = answer_mode
        self.rows_per_batch = rows_per_batch
        self.placeholder_id: int = tokenizer.convert_tokens_to_ids(self.family.placeholder)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, answer_mode: AnswerMode = "letters", device: str = "cpu", dtype: str = "auto"
    ) -> Self:
        """Load a folder in Hugging Face format, or a model of the hub by its id.

        Raises:
            CheckpointError: if there is nothing to load, in one line.
        """
        from transformers import AutoModelForImageTextToText, AutoTokenizer

        folder = Path(source)
        looks_local = folder.is_absolute() or str(source).startswith(".") or len(folder.parts) > 2
        if looks_local and not (folder / "config.json").is_file():
            raise CheckpointError(f"no reference model in {source}: expected a folder with config.json and weights")
        try:
            model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"cannot load the reference model {str(source)!r}: {reason}") from None
        return cls(model.to(device), tokenizer, answer_mode=answer_mode)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the frames it is given, in pixels."""
        side = self.family.image_size(self.model.config)
        return side, side

    @torch.no_grad()
    def encode(self, frames: ByteArray, batch_size: int = 64) -> Tensor:
        """Visual tokens of frames (F, H, W, 3) uint8, as the language model gets them: (F, P, D)."""
        if frames.shape[1:3] != self.image_size:
            raise ReferenceModelError(f"frames must be {self.image_size} pixels, found {frames.shape[1:3]}")
        return torch.cat([self.visual_tokens(chunk) for chunk in np.array_split(frames, -(-len(frames) // batch_size))])

    def visual_tokens(self, frames: ByteArray) -> Tensor:
        """:meth:`encode` of one batch, with gradient if the model's weights ask for it."""
        pixels = torch.from_numpy(frames).to(self.model.device).permute(0, 3, 1, 2).float() / 255  # (F, 3, H, W)
        mean, std = (torch.tensor(v, device=pixels.device)[:, None, None] for v in (self.family.mean, self.family.std))
        return self.family.encode(self.model, ((pixels - mean) / std).to(self.model.dtype))

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """Log-probability of every option (or given text) for every subset: one (G, O) float32 tensor a request.

        Identical subsets of a request are computed once.
        """
        distinct = [unique_subsets(request.subsets) for request in requests]
        answers = [self._answers(request) for request in requests]
        rows = [
            row
            for request, (subsets, _), options in zip(requests, distinct, answers, strict=True)
            for row in self._rows(request, subsets, options)
        ]
        log_probs = self._log_probs(rows)
        results, used = [], 0
        for (subsets, inverse), options in zip(distinct, answers, strict=True):
            count = len(subsets) * len(_starts(options))
            table = log_probs[used : used + count].view(len(subsets), -1, log_probs.shape[-1])
            results.append(_option_scores(table, options)[inverse.cpu()])
            used += count
        return results

    def option_tokens(self, question: Question) -> list[list[int]]:
        """Tokens by which each option is answered; one token an option in letter mode."""
        if len(question.options) > 26 and self.answer_mode == "letters":
            raise ReferenceModelError(f"options are lettered A to Z; found {len(question.options)} of them")
        letters = [chr(ord("A") + i) for i in range(len(question.options))]
        answers = letters if self.answer_mode == "letters" else list(question.options)
        tokens = [self.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
        if len({tuple(t) for t in tokens}) != len(tokens) or not all(tokens):
            raise ReferenceModelError(f"the model's tokenizer cannot tell these options apart: {answers}")
        return tokens

    def _answers(self, request: ScoreRequest) -> list[list[int]]:
        """Tokens of each answer that is scored: the options, or the texts given instead of them."""
        if request.texts is None:
            return self.option_tokens(request.question)
        tokens: list[list[int]] = [
            self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in request.texts
        ]
        if not all(tokens):
            raise ReferenceModelError(f"the model's tokenizer has no token for one of these texts: {request.texts}")
        return tokens

    def text(self, question: Question) -> str:
        """The question as the model reads it."""
        if self.answer_mode == "words":
            return question.text
        lines = [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(question.options)]
        return "\n".join([question.text, *lines, LETTER_INSTRUCTION])

    def _rows(self, request: ScoreRequest, subsets: Tensor, options: list[list[int]]) -> Iterator[Row]:
        """A row for each subset and each distinct start of an answer: one a subset when answers are single tokens."""
        text = self.text(request.question) if request.texts is None else request.question.text
        for subset in subsets:
            frames, times = request.features[subset], request.times[subset].tolist()
            for start in _starts(options):
                yield Row(frames, times, text, start)

    def _log_probs(self, rows: list[Row]) -> Tensor:
        """Log-probabilities of the token after each row, (N, V) float32. Only rows of one length share a batch: no padding."""
        ids = self.token_ids(rows)
        order = sorted(range(len(rows)), key=lambda i: len(ids[i]))
        of_one_length = [list(group) for _, group in groupby(order, key=lambda i: len(ids[i]))]
        size = self.rows_per_batch
        batches = [group[start : start + size] for group in of_one_length for start in range(0, len(group), size)]
        parts = [self._forward([rows[i] for i in batch], [ids[i] for i in batch]) for batch in batches]
        logits = torch.cat(parts).float().log_softmax(-1).cpu()
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        return logits[inverse]

    def next_token_logits(self, rows: Sequence[Row]) -> Tensor:
        """Logits of the token after each row, (N, V), in one left-padded forward pass; differentiable."""
        return self._forward(rows, self.token_ids(rows))

    def token_ids(self, rows: Sequence[Row]) -> list[list[int]]:
        """Token ids of each row, with a placeholder for every visual token.

        Raises:
            ReferenceModelError: if a text holds the placeholder itself.
        """
        prompts = [self._prompt(row) for row in rows]
        known = {prompt: self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in set(prompts)}
        after = len(self.family.trailer(self.model))
        for row, prompt in zip(rows, prompts, strict=True):
            # One placeholder too many would take a visual token from the next row, without a trace.
            expected = row.frames.shape[0] * row.frames.shape[1] + after * bool(len(row.frames))
            found = known[prompt].count(self.placeholder_id)
            if found != expected:
                raise ReferenceModelError(
                    f"{found} placeholders {self.family.placeholder} for {expected} visual tokens; "
                    f"the question or an option must not contain it: {row.text!r}"
                )
        return [[*known[prompt], *row.continuation] for prompt, row in zip(prompts, rows, strict=True)]

    def _forward(self, rows: Sequence[Row], ids: list[list[int]]) -> Tensor:
        """Logits after the last token of each row, (N, V); shorter rows are padded on the left."""
        longest = max(map(len, ids))
        padding = torch.tensor([longest - len(tokens) for tokens in ids])
        table = torch.tensor([[0] * (longest - len(tokens)) + tokens for tokens in ids])  # (N, L)
        real = torch.arange(longest) >= padding[:, None]
        table, real = table.to(self.model.device), real.to(self.model.device)
        embeddings = self.model.get_input_embeddings()(table)  # (N, L, D)
        trailer = self.family.trailer(self.model).to(embeddings)
        shown = [row.frames.to(embeddings).flatten(0, 1) for row in rows if len(row.frames)]
        visual = torch.cat([part for tokens in shown for part in (tokens, trailer)] or [trailer[:0]])
        where = ((table == self.placeholder_id) & real)[..., None].expand_as(embeddings)
        embeddings = embeddings.masked_scatter(where, visual)
        mask = real.long() if padding.any() else None
        out = self.model(inputs_embeds=embeddings, attention_mask=mask, logits_to_keep=1, use_cache=False)
        logits: Tensor = out.logits[:, -1]
        return logits

    def _prompt(self, row: Row) -> str:
        """The chat of one row, with a placeholder for every visual token."""
        family, per_frame = self.family, row.frames.shape[1]
        shown = "".join(
            family.frame.format(placeholders=family.placeholder * per_frame, number=i, time=time)
            for i, time in enumerate(row.times, start=1)
        )
        frames = shown + family.after_frames if shown else ""
        return family.prompt.replace("{frames}", frames).replace("{text}", row.text)


def _starts(options: list[list[int]]) -> list[tuple[int, ...]]:
    """Every proper prefix of every answer, once: what must be put before the token that is scored."""
    return sorted({tuple(option[:i]) for option in options for i in range(len(option))})


def _option_scores(table: Tensor, options: list[list[int]]) -> Tensor:
    """Mean log-probability of each option's tokens: (U, starts, V), starts in the order of :func:`_starts` -> (U, O)."""
    at = {start: i for i, start in enumerate(_starts(options))}
    columns = [
        torch.stack([table[:, at[tuple(option[:j])], token] for j, token in enumerate(option)]).mean(0)
        for option in options
    ]
    return torch.stack(columns, dim=-1)
