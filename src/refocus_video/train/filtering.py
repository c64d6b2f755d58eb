"""Measures what the reward-variance filter goes by (METHOD §6): the margins of 16 probes of every question, a video at a time.

A video is decoded while the one before it is scored, and what the reference model sees of it is dropped with it, unless the caller
keeps it (:data:`Look`). So memory and disk do not grow with the number of videos.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from refocus_video.config import FilterConfig, SamplingConfig
from refocus_video.data.questions import QuestionFile
from refocus_video.errors import ReferenceModelError, VideoError
from refocus_video.reference.base import FrameFeatures, ReferenceModel, ScoreRequest
from refocus_video.reference.ensemble import EnsembleReference
from refocus_video.reference.frames import FrameCache
from refocus_video.reference.margin import margin_reward
from refocus_video.selectors.base import question_rng
from refocus_video.train.features import FeatureStore, reference_viewer
from refocus_video.train.filter import margin_variance, probe_subsets, smallest_pool
from refocus_video.train.measured import Record
from refocus_video.train.views import ViewStore, in_sixteen_bits, weights_digest
from refocus_video.types import ByteArray, Example
from refocus_video.video.ahead import ahead
from refocus_video.video.candidates import load_candidates

DIGITS = 6
"""After the point, of what is written; float32 has no more to say about numbers from −1 to 1."""

Seen = Callable[[], tuple[FrameFeatures, Tensor]]
"""Gives what the reference model sees of F candidate frames, (F, ...), and their times in seconds, (F,)."""
Look = Callable[[str], Seen]
"""Prepares that for a video, in the background: decodes it, or reads what was kept. Both may raise :class:`VideoError`."""


def passing_look(reference: ReferenceModel, sampling: SamplingConfig) -> Look:
    """Looks at the frames of a video that a probe shows, and keeps nothing."""

    def look(video: str) -> Seen:
        candidates = load_candidates(video, reference.image_size, sampling)

        def encode(frames: ByteArray) -> Tensor:
            # As features on disk are, so that it does not matter whether they are kept.
            return in_sixteen_bits(reference.encode(frames).cpu())

        def seen() -> tuple[FrameFeatures, Tensor]:
            return FrameCache(encode, candidates.frames), torch.from_numpy(candidates.times)

        return seen

    return look


def keeping_look(views: ViewStore) -> Look:
    """Looks at a video unless that was done before, and keeps what is seen."""

    def look(video: str) -> Seen:
        if views.path(video).exists():
            kept = views.read(video)
            return lambda: kept
        candidates = load_candidates(video, views.viewer.image_size, views.sampling)

        def seen() -> tuple[FrameFeatures, Tensor]:
            views.write(candidates)
            return views.read(video)

        return seen

    return look


def stored_look(store: FeatureStore) -> Look:
    """Takes what a store has, which it shares with a training run."""

    def look(video: str) -> Seen:
        def seen() -> tuple[FrameFeatures, Tensor]:
            failures = store.build([video])
            if failures:
                raise VideoError(failures[video])
            return store[video].reference, store[video].times

        return seen

    return look


def measure(
    videos: Iterable[str], questions: QuestionFile, look: Look, reference: ReferenceModel, config: FilterConfig
) -> Iterator[Record]:
    """One record a video, in their order: its questions with their margins, or why it cannot be used.

    Margins are those of the paper's reward, in [−1, 1]; τ refers to their variance.

    Raises:
        ReferenceModelError: if the very first questions cannot be scored, none of them: then it is not they that are wrong.
    """
    scored = False
    with ahead(_prepared(videos, look)) as prepared:
        for video, seen in prepared:
            try:
                features, times = _enough(video, seen, config.budget)
            except VideoError as error:
                yield {"video": video, "error": str(error)}
                continue
            rows = _rows(questions.about(video), video, features, times, reference, config, strict=not scored)
            scored = True
            yield {"video": video, "rows": rows}


def _prepared(videos: Iterable[str], look: Look) -> Iterator[tuple[str, Seen | VideoError]]:
    for video in videos:
        try:
            yield video, look(video)
        except VideoError as error:
            yield video, error


def _enough(video: str, seen: Seen | VideoError, budget: int) -> tuple[FrameFeatures, Tensor]:
    if isinstance(seen, VideoError):
        raise seen
    features, times = seen()
    if smallest_pool(len(times)) < budget:
        raise VideoError(f"{video} gives {len(times)} candidate frames, too few for the budgets of this run")
    return features, times


def _rows(
    examples: Sequence[Example],
    video: str,
    features: FrameFeatures,
    times: Tensor,
    reference: ReferenceModel,
    config: FilterConfig,
    strict: bool,
) -> list[Record]:
    def request(example: Example) -> ScoreRequest:
        rng = question_rng(config.seed, video, example.question, config.budget)
        subsets = torch.from_numpy(probe_subsets(len(times), config.budget, rng))
        return ScoreRequest(features, times, example.question, subsets)

    try:
        scores: list[Tensor | ReferenceModelError] = [*reference.score([request(example) for example in examples])]
    except ReferenceModelError:
        # One of them cannot be scored; the others shall not suffer for it.
        scores = [_alone(reference, request(example)) for example in examples]
        errors = [found for found in scores if isinstance(found, ReferenceModelError)]
        if strict and len(errors) == len(examples):
            raise errors[0] from None
    return [_row(example, found) for example, found in zip(examples, scores, strict=True)]


def _alone(reference: ReferenceModel, request: ScoreRequest) -> Tensor | ReferenceModelError:
    try:
        return reference.score([request])[0]
    except ReferenceModelError as error:
        return error


def _row(example: Example, scores: Tensor | ReferenceModelError) -> Record:
    """What is written of a question: the numbers follow from the margins as written."""
    if isinstance(scores, ReferenceModelError):
        return {"id": example.id, "error": str(scores)}
    margins = [round(float(margin), DIGITS) for margin in margin_reward(scores, example.answer)]
    return {
        "id": example.id,
        "variance": round(margin_variance(torch.tensor(margins)), DIGITS),
        "mean": round(sum(margins) / len(margins), DIGITS),
        "accuracy": round(sum(margin > 0 for margin in margins) / len(margins), DIGITS),
        "margins": margins,
    }


def reference_fingerprint(reference: ReferenceModel) -> str:
    """A short name for a reference model's weights, or for what it sees where the weights are elsewhere."""
    if isinstance(reference, EnsembleReference):
        return " ".join(map(reference_fingerprint, reference.members))
    model = getattr(reference, "model", None)
    if isinstance(model, torch.nn.Module):
        return weights_digest(dict(model.state_dict()))
    return reference_viewer(reference).key
