"""Trains the tiny image–text model on haystack videos (`refocus haystack train-relevance`).

Not part of the paper, whose rivals score frames by a pretrained SigLIP or CLIP: this makes a SigLIP small enough for a demo, so
that every published selector can be compared on the generated videos. It is trained as SigLIP is (arXiv 2303.15343): every picture
of a batch with every text, each pair by itself, right or wrong.

A text names one property of one card, its fill or its glyph, and is right for the frames that show this card. That goes for two-hop
questions too: they name the card where the link begins, and no text tells where it leads. So the second card is found by chance
alone, as with any score of one frame against one question.

Dimensions: N pictures of a batch · T texts · V videos · F candidate frames · L tokens of a text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refocus_video.config import SamplingConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.haystack.world import COLOR_NAMES, GLYPHS, HOPS, ONE_HOP, TEMPLATES
from refocus_video.reference.pixels import normalised
from refocus_video.reference.tiny import IMAGE_SIZE, PATCH_SIZE, tiny_tokenizer, words_of
from refocus_video.selectors.relevance import Relevance
from refocus_video.settings import Settings
from refocus_video.train.corpus import Corpus
from refocus_video.train.tiny_reference import card_labels, stepper
from refocus_video.types import Example, FloatArray, Span
from refocus_video.video.candidates import candidate_timeline
from refocus_video.video.reader import VideoReader

FILL, GLYPH = 0, 1
"""Columns of :func:`card_labels`."""
CAPTIONS = {FILL: "a {} card", GLYPH: "a card with the {}"}
LONGEST_TEXT = 16
SCALE, BIAS = 10.0, -10.0
"""What SigLIP's training starts from: at first almost every pair is wrong, and the model says so."""
HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of colours that SigLIP's image processor assumes."""


class TinyRelevanceConfig(Settings):
    """How the shipped tiny image–text model is trained."""

    seed: int = 0
    steps: int = 1000
    batch_size: int = 192
    """Pictures of a step, one in six without a card; every one meets every text."""
    learning_rate: float = 1e-3
    width: int = 64
    layers: int = 3


@dataclass(frozen=True, slots=True)
class Text:
    """A text and the cards it is about."""

    words: str
    column: int
    """:data:`FILL` or :data:`GLYPH`."""
    value: int
    """Position of the word among the colours or the glyphs."""


def texts() -> list[Text]:
    """Every one-hop and two-hop question, and a caption for every colour and glyph."""
    about = [(template, GLYPH if kind == "shape-to-color" else FILL) for kind, template in TEMPLATES.items()]
    about += [(template, column) for column, template in CAPTIONS.items()]
    words = {FILL: COLOR_NAMES, GLYPH: GLYPHS}
    return [
        Text(template.format(word), column, value)
        for template, column in about
        for value, word in enumerate(words[column])
    ]


def new_relevance(config: TinyRelevanceConfig) -> Relevance:
    """An untrained tiny SigLIP that knows the words of the haystack."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    torch.manual_seed(config.seed)
    tokenizer = tiny_tokenizer(words_of(text.words for text in texts()))
    tokenizer.model_max_length = LONGEST_TEXT
    tower = {
        "hidden_size": config.width,
        "intermediate_size": 3 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": 4,
    }
    text = tower | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": LONGEST_TEXT,
        "num_hidden_layers": max(1, config.layers - 1),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = tower | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}
    model: Any = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        model.logit_scale.fill_(np.log(SCALE))
        model.logit_bias.fill_(BIAS)
    processor = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
    return Relevance(model, processor, tokenizer, "untrained")


def sigmoid_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """SigLIP's loss: every pair is judged by itself, summed over the texts and averaged over the pictures.

    Args:
        logits: of pictures against texts, (N, T).
        matches: whether the text is right for the picture, (N, T) bool.
    """
    signs = 2.0 * matches - 1
    return -nn.functional.logsigmoid(signs * logits).sum(1).mean()


def train_relevance(
    relevance: Relevance,
    corpus: Corpus,
    config: TinyRelevanceConfig,
    report: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train in place. ``report`` is called after every step with the loss."""
    model = relevance.model.train().requires_grad_(True)
    rng = np.random.default_rng(config.seed)
    asked = texts()
    ids = relevance.tokenizer(
        [text.words for text in asked], padding="max_length", max_length=LONGEST_TEXT, return_tensors="pt"
    )["input_ids"]  # (T, L)
    labels = card_labels(corpus)  # (V·F, 3)
    matches = torch.from_numpy(np.stack([labels[:, text.column] == text.value for text in asked], 1))  # (V·F, T)
    frames = corpus.frames.reshape(-1, *corpus.frames.shape[2:])
    with_card, without = np.flatnonzero(corpus.shown.ravel() >= 0), np.flatnonzero(corpus.shown.ravel() < 0)
    empty = config.batch_size // 6
    step = stepper(list(model.parameters()), config.learning_rate, config.steps)
    for _ in range(config.steps):
        picked = np.concatenate((rng.choice(with_card, config.batch_size - empty), rng.choice(without, empty)))
        pixels = normalised(frames[picked], HALF, HALF, model.device)
        logits = model(input_ids=ids, pixel_values=pixels).logits_per_image  # (N, T)
        report(step(sigmoid_loss(logits, matches[picked])))
    model.eval().requires_grad_(False)


def retrieval(
    relevance: Relevance, examples: Sequence[Example], progress: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """How often the most relevant frame shows the card that is asked about: a row for each kind of question.

    ``asked_card`` is the share of questions whose best frame shows the card that they name; ``second_card``, of two-hop
    questions, the share whose best frame beside those shows the card that the first one links to.
    """
    hits: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in HOPS}
    for video, questions in by_video(examples).items():
        with VideoReader(video) as reader:
            timeline = candidate_timeline(reader, SamplingConfig())
        opened = relevance.open(timeline)
        for example in questions:
            scores = opened.see(example.question).scores
            shown = [_within(span, timeline.times) for span in example.evidence]
            beside = np.where(shown[0], -np.inf, scores)
            found = bool(shown[0][scores.argmax()]), bool(shown[-1][beside.argmax()])
            hits[str(example.metadata["kind"])].append(found)
        progress()
    return [
        {
            "kind": kind,
            "n": len(found),
            "asked_card": float(np.mean([first for first, _ in found])),
            "second_card": None if HOPS[kind] == ONE_HOP else float(np.mean([second for _, second in found])),
        }
        for kind, found in hits.items()
        if found
    ]


def _within(span: Span, times: FloatArray) -> Any:
    return np.array([span.contains(t) for t in times.tolist()])
