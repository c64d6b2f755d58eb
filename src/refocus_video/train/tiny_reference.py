"""Trains the tiny reference model on haystack videos (`refocus haystack train-reference`).

Not part of the paper, which takes a public LMM: this makes one small enough to run in a demo. Three stages, because a tiny
transformer does not learn all at once from scratch (docs/experiments.md):

1. *seeing*: vision tower and projector learn to name the card on a frame (fill, glyph, border) from each visual token;
   both are frozen afterwards;
2. *letters*: the language model learns to turn a word into the letter of the option that says it, from text alone;
3. *answering*: questions on 1, then 2, then up to 8 frames, in both answer modes. The target is what an honest observer
   believes (:func:`refocus_video.data.haystack.world.belief`): the answer where all evidence is in sight, no preference otherwise.

Dimensions: N rows · V words of the vocabulary · F candidate frames · M frames shown.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refocus_video.data.haystack import world as haystack
from refocus_video.data.haystack.world import COLOR_NAMES, GLYPHS, HOPS, Probe
from refocus_video.reference.huggingface import LETTER_INSTRUCTION, AnswerMode, HuggingFaceReference, Row
from refocus_video.reference.tiny import tiny_llava_onevision, tiny_tokenizer, words_of
from refocus_video.settings import Settings
from refocus_video.train.corpus import Corpus
from refocus_video.types import Question

Report = Callable[[str, float], None]
"""Called after every step with the stage and the loss."""


class TinyReferenceConfig(Settings):
    """How the shipped tiny reference model is trained."""

    seed: int = 0
    seeing_steps: int = 800
    letters_steps: int = 200
    answering_steps: int = 2400
    batch_size: int = 192
    learning_rate: float = 2e-3
    width: int = 96
    layers: int = 4
    measured_questions: int = 200
    """Asked of each kind, with each number of frames and sort of evidence, for the model card."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What to practise at one step of the answering stage."""

    num_frames: int
    answer_mode: AnswerMode
    two_hop: bool
    clutter: float
    """Probability that a filler frame shows another card rather than any frame."""


def new_reference(config: TinyReferenceConfig) -> HuggingFaceReference:
    """An untrained tiny reference model that knows the words of the haystack."""
    torch.manual_seed(config.seed)
    texts = [*haystack.TEMPLATES.values(), *COLOR_NAMES, *GLYPHS, LETTER_INSTRUCTION, "A. B. C. D. user assistant"]
    tokenizer = tiny_tokenizer(words_of(text.replace("{}", " ") for text in texts))
    return HuggingFaceReference(tiny_llava_onevision(tokenizer, width=config.width, layers=config.layers), tokenizer)


def train_reference(
    reference: HuggingFaceReference, corpus: Corpus, config: TinyReferenceConfig, report: Report = lambda *_: None
) -> None:
    """Run the three stages in place."""
    rng = np.random.default_rng(config.seed)
    learn_to_see(reference, corpus, config, rng, report)
    features = encode_corpus(reference, corpus)
    learn_to_answer(reference, corpus, features, config, rng, report)


def learn_to_see(
    reference: HuggingFaceReference,
    corpus: Corpus,
    config: TinyReferenceConfig,
    rng: np.random.Generator,
    report: Report = lambda *_: None,
) -> None:
    """Stage 1: every visual token of a frame must tell the card on it."""
    labels = torch.from_numpy(card_labels(corpus))  # (videos·F, 3)
    frames = corpus.frames.reshape(-1, *corpus.frames.shape[2:])
    with_card, without = np.flatnonzero(corpus.shown.ravel() >= 0), np.flatnonzero(corpus.shown.ravel() < 0)
    seeing = [reference.model.model.vision_tower, reference.model.model.multi_modal_projector]
    classes = len(COLOR_NAMES) + 1
    head = nn.Linear(config.width, 3 * classes)
    parameters = [p for module in (*seeing, head) for p in module.requires_grad_(True).parameters()]
    step = stepper(parameters, config.learning_rate, config.seeing_steps)
    for _ in range(config.seeing_steps):
        picked = np.concatenate((rng.choice(with_card, 160), rng.choice(without, 32)))
        tokens = reference.visual_tokens(frames[picked])  # (N, P, D)
        logits = head(tokens).unflatten(-1, (3, classes))  # (N, P, 3, classes)
        target = labels[picked][:, None].expand(logits.shape[:-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 2), target.flatten())
        report("seeing", step(loss))
    for module in seeing:
        module.requires_grad_(False)


def card_labels(corpus: Corpus) -> Any:
    """Fill, glyph and border of the card on every candidate, as class numbers (videos·F, 3); the last class is "none"."""
    labels = np.full((*corpus.shown.shape, 3), len(COLOR_NAMES))
    for v, world in enumerate(corpus.worlds):
        for e, event in enumerate(world.events):
            card = (COLOR_NAMES.index(event.fill), GLYPHS.index(event.glyph), COLOR_NAMES.index(event.border))
            labels[v][corpus.shown[v] == e] = card
    return labels.reshape(-1, 3)


def encode_corpus(reference: HuggingFaceReference, corpus: Corpus) -> Tensor:
    """Visual tokens of every candidate, (videos, F, P, D) float16."""
    return torch.stack([reference.encode(frames).half() for frames in corpus.frames])


def learn_to_answer(
    reference: HuggingFaceReference,
    corpus: Corpus,
    features: Tensor,
    config: TinyReferenceConfig,
    rng: np.random.Generator,
    report: Report = lambda *_: None,
) -> None:
    """Stages 2 and 3: the language model alone, on the frozen visual tokens."""
    model = reference.model
    model.model.language_model.requires_grad_(True)
    model.model.image_newline.requires_grad_(True)
    trained = [p for p in model.parameters() if p.requires_grad]
    total = config.letters_steps + config.answering_steps
    step = stepper(trained, config.learning_rate, total)
    for i in range(total):
        if i < config.letters_steps:
            rows, targets = spelling_batch(reference, config.batch_size, rng)
            stage = "letters"
        else:
            lesson = draw_lesson((i - config.letters_steps) / config.answering_steps, rng)
            rows, targets = answering_batch(reference, corpus, features, lesson, config.batch_size, rng)
            stage = "answering"
        report(stage, step(nn.functional.cross_entropy(reference.next_token_logits(rows), targets)))
    model.requires_grad_(False)


def draw_lesson(done: float, rng: np.random.Generator) -> Lesson:
    """What to practise when a share ``done`` (0..1) of the answering stage is over."""
    if done < 0.08:
        return Lesson(1, "words", False, 0.5)
    if done < 0.3:
        frames = int(rng.choice((1, 2, 4), p=(0.2, 0.6, 0.2)))
    else:
        frames = int(rng.choice((1, 2, 4, 8), p=(0.1, 0.25, 0.45, 0.2)))
    mode: AnswerMode = "letters" if rng.random() < (0.2 if done < 0.3 else 0.35) else "words"
    return Lesson(frames, mode, done > 0.12, float(rng.choice((0.0, 0.4, 0.9), p=(0.2, 0.4, 0.4))))


def answering_batch(
    reference: HuggingFaceReference,
    corpus: Corpus,
    features: Tensor,
    lesson: Lesson,
    size: int,
    rng: np.random.Generator,
) -> tuple[list[Row], Tensor]:
    """Questions on subsets of frames with the belief to reach: rows and target probabilities (N, V)."""
    rows: list[Row] = []
    targets = torch.zeros(size, len(reference.tokenizer))
    kinds = list(HOPS) if lesson.two_hop else list(HOPS)[:2]
    shares = np.array([1.0, 1.0, 2.0])[: len(kinds)]
    reference.answer_mode = lesson.answer_mode
    for n in range(size):
        v = int(rng.integers(len(corpus.worlds)))
        world = corpus.worlds[v]
        probe = Probe(str(rng.choice(kinds, p=shares / shares.sum())), int(rng.integers(len(world.events))))
        subset = draw_subset(corpus, v, probe, lesson, rng)
        question, _ = haystack.ask(world, probe, rng)
        seen = frozenset(int(e) for e in corpus.shown[v, subset] if e >= 0)
        belief = haystack.belief(world, probe, seen)
        rows.append(Row(features[v, subset], [0.0] * len(subset), reference.text(question)))
        for token, share in _target(reference, probe, question, belief):
            targets[n, token] += share
    return rows, targets


def draw_subset(corpus: Corpus, v: int, probe: Probe, lesson: Lesson, rng: np.random.Generator) -> Any:
    """Positions (M,) in temporal order: mostly with all evidence, sometimes with a part of it or none, and fillers."""
    world, shown = corpus.worlds[v], corpus.shown[v]
    needed = list(haystack.needed_events(world, probe))
    luck = rng.random()
    if luck > 0.7:
        needed = [needed[int(rng.integers(len(needed)))]] if luck < 0.9 else []
    cards = np.flatnonzero(shown >= 0)
    chosen = [int(rng.choice(np.flatnonzero(shown == e))) for e in needed if (shown == e).any()][: lesson.num_frames]
    while len(chosen) < lesson.num_frames:
        filler = int(rng.choice(cards)) if rng.random() < lesson.clutter else int(rng.integers(len(shown)))
        if filler not in chosen:
            chosen.append(filler)
    return np.sort(chosen)


def spelling_batch(reference: HuggingFaceReference, size: int, rng: np.random.Generator) -> tuple[list[Row], Tensor]:
    """Text alone: a question that names its own answer, and the letter of the option that says it."""
    reference.answer_mode = "letters"
    nothing = torch.empty(0, 1, reference.model.config.text_config.hidden_size)
    rows, targets = [], torch.zeros(size, len(reference.tokenizer))
    for n in range(size):
        words = COLOR_NAMES if rng.random() < 0.5 else GLYPHS
        options = tuple(words[i] for i in rng.permutation(len(words))[:4])
        answer = int(rng.integers(4))
        question = Question(f"Which is the {options[answer]} card?", options)
        rows.append(Row(nothing, (), reference.text(question)))
        targets[n, reference.option_tokens(question)[answer][0]] = 1.0
    return rows, targets


def _target(
    reference: HuggingFaceReference, probe: Probe, question: Question, belief: Any
) -> Iterator[tuple[int, float]]:
    """Token and probability pairs: over all words, or over the letters of the options."""
    words = haystack.vocabulary(probe.kind)
    if reference.answer_mode == "words":
        yield from zip(reference.tokenizer.convert_tokens_to_ids(list(words)), belief, strict=True)
        return
    shares = np.array([belief[words.index(option)] for option in question.options])
    letters = (tokens[0] for tokens in reference.option_tokens(question))
    yield from zip(letters, shares / shares.sum(), strict=True)


def stepper(parameters: list[Any], learning_rate: float, steps: int) -> Callable[[Tensor], float]:
    """AdamW with a short warm-up, half the time at full rate, then linear to 2 %; returns a function that takes one step."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / 50, max(0.02, min(1.0, 2 - 2 * i / max(1, steps))))
    )

    def step(loss: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        return loss.item()

    return step
