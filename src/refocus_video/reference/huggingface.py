"""Any Hugging Face video LMM as a reference model.

The model's own modules are run on its own weights; only the preparation of pixels, placeholders and positions is done here,
because the official video processors need torchvision and know only evenly spaced frames, and because the vision tower should
see each frame once however many subsets hold it. A test compares the scores with the plain model call on the same frames.

Two ways to answer (``answer_mode``):

- ``letters``: the options are listed with letters, and the score of an option is the log-probability of its letter as the next
  token (METHOD §4);
- ``words``: the options are not shown, and the score is the mean log-probability of the option's own tokens.

What is shared: a frame is encoded once a video; equal subsets are scored once; answers that begin alike share a row; rows that
begin alike share the keys and values of their beginning (``prefix.py``). How much fits at a time is found out (``memory.py``).

Dimensions: N rows (subset × question) · F frames · K frames in a subset · P tokens a frame · D width · C columns (D or more) ·
L tokens · O options · V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from refocus_video.errors import QuestionError, ReferenceModelError
from refocus_video.reference.answers import mean_log_probs, starts
from refocus_video.reference.base import ScoreRequest, unique_subsets
from refocus_video.reference.families import FAMILIES, Family
from refocus_video.reference.frames import FrameCache
from refocus_video.reference.letters import INSTRUCTION as LETTER_INSTRUCTION
from refocus_video.reference.letters import letter, lettered
from refocus_video.reference.loading import load
from refocus_video.reference.memory import Fitting, first_guess
from refocus_video.reference.pixels import normalised
from refocus_video.reference.prefix import SHORT, plan
from refocus_video.reference.rows import Ready, Row, RowMaker
from refocus_video.reference.writing import greedy
from refocus_video.types import ByteArray, Question

AnswerMode = Literal["letters", "words"]
FRAME_PIXELS = 448 * 448
"""Pixels of a frame at most, where a family leaves the size open: about as many visual tokens as InternVL's 256."""

__all__ = ["LETTER_INSTRUCTION", "AnswerMode", "HuggingFaceReference", "Row", "Work"]


@dataclass(slots=True)
class Work:
    """What has been computed so far, in counts."""

    frames: int = 0
    """Frames that the vision tower looked at."""
    rows: int = 0
    """Rows read by the language model."""
    tokens: int = 0
    """Tokens of these rows that were computed, without padding."""
    shared_tokens: int = 0
    """Tokens of these rows that were taken over from another row."""


class HuggingFaceReference:
    """A frozen video LMM behind :class:`refocus_video.reference.base.ReferenceModel`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        answer_mode: AnswerMode = "letters",
        rows_per_batch: int = 32,
        frame_pixels: int = FRAME_PIXELS,
        frame_size: tuple[int, int] | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: a ``...ForConditionalGeneration`` of one of :data:`FAMILIES`.
            tokenizer: its tokenizer.
            answer_mode: how options are scored.
            rows_per_batch: how many subsets run at once at most (on a CPU more is slower); fewer where memory asks for it.
            frame_pixels: most pixels of a frame, for families that take frames of any size.
            frame_size: exact height and width of a frame for these families, instead of ``frame_pixels``.

        Raises:
            ReferenceModelError: if the model is of another kind, or cannot look at frames of this size.
        """
        kind = model.config.model_type
        if kind not in FAMILIES:
            raise ReferenceModelError(f"model type {kind!r} is not supported; supported: {', '.join(FAMILIES)}")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.family: Family = FAMILIES[kind]
        self.answer_mode: AnswerMode = answer_mode
        self.rows_per_batch = rows_per_batch
        self.image_size: tuple[int, int] = frame_size or self.family.image_size(model.config, frame_pixels)
        self.work = Work()
        self._text_config = model.config.get_text_config()
        self._frames_at_once = Fitting("frames", 64)
        self._tokens_at_once = Fitting("tokens", first_guess(model, self._text_config))
        step = self._check_size(frame_pixels)
        self._maker = RowMaker(
            self.family,
            tokenizer,
            width=self._text_config.hidden_size,
            trailing=self.family.after_frames.count(self.family.placeholder),
            grid=(self.image_size[0] // step, self.image_size[1] // step),
            per_second=model.config.vision_config.tokens_per_second if self.family.rope == "seconds" else 0.0,
        )

    def _check_size(self, frame_pixels: int) -> int:
        """Pixels along one side of a visual token where the frame size is free, else 1."""
        step, (height, width) = self.family.size_step(self.model.config), self.image_size
        if step and (height % step or width % step or not height or not width):
            raise ReferenceModelError(
                f"this reference model looks at frames whose sides are multiples of {step} pixels, found {self.image_size}"
            )
        fixed = self.family.image_size(self.model.config, frame_pixels)
        if not step and self.image_size != fixed:
            raise ReferenceModelError(
                f"this reference model looks at frames of {fixed} pixels, found {self.image_size}"
            )
        return step or 1

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        answer_mode: AnswerMode = "letters",
        device: str = "cpu",
        dtype: str = "auto",
        attention: str | None = None,
        revision: str | None = None,
        frame_pixels: int = FRAME_PIXELS,
        frame_size: tuple[int, int] | None = None,
    ) -> Self:
        """Load a folder in Hugging Face format, or a model of the hub by its id.

        Raises:
            CheckpointError: if there is nothing to load, in one line.
            ReferenceModelError: if it is not a video LMM of a supported family.
        """
        model, tokenizer = load(source, device=device, dtype=dtype, attention=attention, revision=revision)
        return cls(model, tokenizer, answer_mode=answer_mode, frame_pixels=frame_pixels, frame_size=frame_size)

    # ------------------------------------------------------------------ seeing

    @torch.no_grad()
    def encode(self, frames: ByteArray, batch_size: int | None = None) -> Tensor:
        """Visual tokens of frames (F, H, W, 3) uint8, (F, P, C): in the first D columns as the language model gets them."""
        if frames.shape[1:3] != self.image_size:
            raise ReferenceModelError(f"frames must be {self.image_size} pixels, found {frames.shape[1:3]}")
        self.work.frames += len(frames)
        parts: list[Tensor] = []
        done = 0
        while done < len(frames):
            chunk = frames[done : done + (batch_size or self._frames_at_once.size)]
            parts += self._frames_at_once.run(self.visual_tokens, chunk, len(chunk))
            done += len(chunk)
        return torch.cat(parts)

    def cache(self, frames: ByteArray) -> FrameCache:
        """The same for frames that are encoded only when a subset needs them."""
        return FrameCache(self.encode, frames)

    def visual_tokens(self, frames: ByteArray) -> Tensor:
        """:meth:`encode` of one batch, with gradient if the model's weights ask for it."""
        pixels = normalised(frames, self.family.mean, self.family.std, self.model.device)
        return self.family.encode(self.model, pixels.to(self.model.dtype))

    # ------------------------------------------------------------------ answering

    @torch.no_grad()
    def generate(self, requests: Sequence[ScoreRequest], max_new_tokens: int) -> list[list[str]]:
        """The most probable answer, token by token, to every subset: one text a row of ``subsets``, one list a request.

        A question with options is put with their letters, one without as it stands. Equal subsets are answered once.
        """
        _encode_together(requests)
        answers = []
        for source, request in enumerate(requests):
            text = lettered(request.question) if request.question.options else request.question.text
            subsets, inverse = unique_subsets(request.subsets)
            rows = [self._row(request, text, subset, source) for subset in subsets]
            texts = [self._generated(row, max_new_tokens) for row in self._maker.ready(rows)]
            answers.append([texts[i] for i in inverse.tolist()])
        return answers

    def _generated(self, ready: Ready, max_new_tokens: int) -> str:
        self._check_context([ready])
        written = greedy(self.model, self._inputs([ready], 0, None), self._ends, max_new_tokens)
        return str(self.tokenizer.decode(written, skip_special_tokens=True)).strip()

    @property
    def _ends(self) -> set[int]:
        """Tokens that end an answer."""
        stated = getattr(self.model.generation_config, "eos_token_id", None)
        listed = stated if isinstance(stated, list) else [stated]
        return {token for token in (*listed, self.tokenizer.eos_token_id) if token is not None}

    # ------------------------------------------------------------------ scoring

    @torch.no_grad()
    def score(self, requests: Sequence[ScoreRequest]) -> list[Tensor]:
        """Log-probability of every option (or given text) for every subset: one (G, O) float32 tensor a request.

        Identical subsets of a request are computed once.
        """
        _encode_together(requests)
        distinct = [unique_subsets(request.subsets) for request in requests]
        answers = [self._answers(request) for request in requests]
        sources = {id(request.features): i for i, request in enumerate(requests)}
        rows = [
            row
            for request, (subsets, _), options in zip(requests, distinct, answers, strict=True)
            for row in self._rows(request, subsets, options, sources[id(request.features)])
        ]
        columns = sorted({token for options in answers for option in options for token in option})
        column_of = {token: i for i, token in enumerate(columns)}
        log_probs = self._log_probs(rows, torch.tensor(columns))
        results, used = [], 0
        for (subsets, inverse), options in zip(distinct, answers, strict=True):
            count = len(subsets) * len(starts(options))
            table = log_probs[used : used + count].view(len(subsets), -1, *log_probs.shape[1:])
            named = [[column_of[token] for token in option] for option in options]
            results.append(mean_log_probs(table, options, named)[inverse.cpu()])
            used += count
        return results

    def option_tokens(self, question: Question) -> list[list[int]]:
        """Tokens by which each option is answered; one token an option in letter mode."""
        if self.answer_mode == "words":
            tokens = self._tokens_of(question.options)
            if len({tuple(t) for t in tokens}) != len(tokens) or not all(tokens):
                options = list(question.options)
                raise QuestionError(
                    f"the model's tokenizer cannot tell the options of {question.text!r} apart: {options}; "
                    "answer by letter with reference.answer_mode=letters"
                )
            return tokens
        if len(question.options) > 26:
            raise QuestionError(f"options are lettered A to Z; found {len(question.options)} of them")
        letters = [letter(i) for i in range(len(question.options))]
        tokens = self._tokens_of(letters)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        for i, (name, token) in enumerate(zip(letters, tokens, strict=True)):
            if len(token) != 1 or token[0] == unknown or token in tokens[:i]:
                raise QuestionError(
                    f"{len(letters)} options need the letters A to {letters[-1]}, but the model's tokenizer has no "
                    f"token of its own for {name}; give at most {i} options or use the answer mode words"
                )
        return tokens

    def _answers(self, request: ScoreRequest) -> list[list[int]]:
        """Tokens of each answer that is scored: the options, or the texts given instead of them."""
        if request.texts is None:
            return self.option_tokens(request.question)
        tokens = self._tokens_of(request.texts)
        if not all(tokens):
            raise QuestionError(f"the model's tokenizer has no token for one of these texts: {request.texts}")
        return tokens

    def _tokens_of(self, answers: Sequence[str]) -> list[list[int]]:
        prefix = self.family.answer_prefix
        return [self.tokenizer(prefix + answer, add_special_tokens=False)["input_ids"] for answer in answers]

    def text(self, question: Question) -> str:
        """The question as the model reads it."""
        return question.text if self.answer_mode == "words" else lettered(question)

    def _rows(self, request: ScoreRequest, subsets: Tensor, options: list[list[int]], source: int = 0) -> Iterator[Row]:
        """A row for each subset and each distinct start of an answer: one a subset when answers are single tokens."""
        text = self.text(request.question) if request.texts is None else request.question.text
        for subset in subsets:
            for start in starts(options):
                yield self._row(request, text, subset, source, start)

    def _row(self, request: ScoreRequest, text: str, subset: Tensor, source: int, start: tuple[int, ...] = ()) -> Row:
        duration = float(request.times[-1]) if request.duration_s is None else request.duration_s
        return Row(request.features, request.times[subset].tolist(), text, start, subset, source, duration)

    def _log_probs(self, rows: list[Row], columns: Tensor) -> Tensor:
        """Log-probabilities of some tokens after each row and at the places before: (N, places, columns) float32 on the CPU.

        The last place is the one after the row; there are as many as the longest continuation needs.
        """
        ready = self._maker.ready(rows)
        self._check_context(ready)
        places = 1 + max(len(row.continuation) for row in rows)
        groups = plan(
            # Of short rows only the length is asked for, and there are many.
            [self._maker.names(r) if len(r.ids) > SHORT else r.ids for r in ready],
            most_rows=self.rows_per_batch,
            most_tokens=self._tokens_at_once.size,
            own=places,
        )
        found = torch.empty(len(rows), places, len(columns))
        for group in groups:
            members = [ready[i] for i in group.rows]
            forward = partial(self._columns, shared=group.shared, places=places, columns=columns)
            cost = sum(len(r.ids) for r in members)
            found[list(group.rows)] = torch.cat(self._tokens_at_once.run(forward, members, cost))
            self.work.rows += len(members)
            self.work.shared_tokens += group.shared * (len(members) - 1)
            self.work.tokens += cost - group.shared * (len(members) - 1)
        return found

    def _columns(self, rows: Sequence[Ready], *, shared: int, places: int, columns: Tensor) -> Tensor:
        log_probs = self._forward(rows, shared=shared, places=places).float().log_softmax(-1)
        return log_probs[..., columns.to(log_probs.device)].cpu()

    def next_token_logits(self, rows: Sequence[Row]) -> Tensor:
        """Logits of the token after each row, (N, V), in one left-padded forward pass; differentiable."""
        return self._forward(self._maker.ready(rows))[:, -1]

    def _check_context(self, rows: Sequence[Ready]) -> None:
        longest = max(rows, key=lambda r: len(r.ids))
        limit = getattr(self._text_config, "max_position_embeddings", None)
        if limit is not None and len(longest.ids) > limit:
            raise QuestionError(
                f"{len(longest.row.times)} frames and the question are {len(longest.ids)} tokens, {longest.visual} of "
                f"them for the frames, but the reference model reads at most {limit}; show fewer or smaller frames"
            )

    def _forward(self, rows: Sequence[Ready], *, shared: int = 0, places: int = 1) -> Tensor:
        """Logits at the last ``places`` tokens of each row, (N, places, V); the first ``shared`` tokens are read once."""
        decoder, cache = self.model.get_decoder(), None
        if shared and len(rows) > 1:
            inputs = self._inputs(rows[:1], 0, shared)
            cache = decoder(**inputs, use_cache=True).past_key_values
            cache.batch_repeat_interleave(len(rows))
        inputs = self._inputs(rows, shared if cache is not None else 0, None)
        out = decoder(**inputs, past_key_values=cache, use_cache=cache is not None)
        logits: Tensor = self.model.get_output_embeddings()(out.last_hidden_state[:, -places:])
        return logits

    def _inputs(self, rows: Sequence[Ready], begin: int, end: int | None) -> dict[str, Any]:
        """What the language model is given for tokens ``begin`` to ``end`` of each row; shorter ones are padded on the left."""
        device = self.model.device
        parts = [row.ids[begin:end] for row in rows]
        lengths = torch.tensor([len(part) for part in parts])
        longest = int(lengths.max())
        table = torch.tensor([[0] * (longest - len(part)) + part for part in parts]).to(device)  # (N, L)
        real = (torch.arange(longest) >= longest - lengths[:, None]).to(device)
        padded = bool((lengths != longest).any())
        embeddings = self.model.get_input_embeddings()(table)  # (N, L, D)
        where = (table == self._maker.placeholder_id) & real
        visual = self._visual(rows, begin, end, embeddings)
        width = embeddings.shape[-1]
        inputs: dict[str, Any] = {"attention_mask": None, "position_ids": None}
        if visual is not None:
            mask = where[..., None].expand_as(embeddings)
            embeddings = embeddings.masked_scatter(mask, visual[:, :width])
            if self.family.columns == "deepstack":
                inputs["visual_pos_masks"] = where
                inputs["deepstack_visual_embeds"] = list(torch.split(visual[:, width:], width, dim=-1))
        if padded:
            before = torch.ones(len(rows), begin, dtype=torch.long, device=device)
            inputs["attention_mask"] = torch.cat((before, real.long()), dim=1)
            inputs["position_ids"] = begin + (real.long().cumsum(-1) - 1).clamp(min=0)
        if self.family.rope != "text":
            whole = [self._maker.positions(row) for row in rows]
            turned = [positions[:, begin:end].T for positions in whole if positions is not None]
            inputs["position_ids"] = (
                pad_sequence(turned, batch_first=True, padding_side="left").permute(2, 0, 1).to(device)
            )
        return inputs | {"inputs_embeds": embeddings}

    def _visual(self, rows: Sequence[Ready], begin: int, end: int | None, like: Tensor) -> Tensor | None:
        """Visual tokens of rows in one line, (ΣT, C); None if there are none."""
        family = self.family
        trailer = None if family.trailer is None else family.trailer(self.model).to(like)
        parts: list[Tensor] = []
        for row in rows:
            if not row.visual:
                continue
            shown = row.row.shown().to(like)
            tokens = shown.flatten(0, 1) if row.kept is None else shown[row.kept.to(shown.device)]
            whole = [tokens] if trailer is None else [tokens, trailer]
            if begin or end is not None:
                first = row.ids[:begin].count(self._maker.placeholder_id)
                count = row.ids[begin:end].count(self._maker.placeholder_id)
                whole = [torch.cat(whole)[first : first + count]]
            parts += whole
        return torch.cat(parts) if parts else None


def _encode_together(requests: Sequence[ScoreRequest]) -> None:
    """Let the frames that any of the subsets needs be encoded in as few calls as there are videos."""
    caches = {id(r.features): r.features for r in requests if isinstance(r.features, FrameCache)}
    for key, cache in caches.items():
        cache.load(torch.cat([r.subsets.flatten() for r in requests if id(r.features) == key]))
