"""Measures what the reward-variance filter goes by (METHOD §6): the margins of 16 probes of every question, a video at a time.

A video is decoded while the one before it is scored, and what the reference model sees of it is dropped with it, unless the caller
keeps it (:data:`Look`). So memory and disk do not grow with the number of videos.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from refocus_video.config import FilterConfig, ReferenceConfig, SamplingConfig
from refocus_video.data.questions import QuestionFile
from refocus_video.errors import ReferenceModelError, VideoError
from refocus_video.reference.base import FrameFeatures, ReferenceModel
from refocus_video.reference.endpoint.model import EndpointReference
from refocus_video.reference.ensemble import EnsembleReference
from refocus_video.reference.frames import FrameCache
from refocus_video.scoring import Judgement, Trial, judge_apart
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
        if views.holds(video):
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
    videos: Iterable[str],
    questions: QuestionFile,
    look: Look,
    reference: ReferenceModel,
    config: FilterConfig,
    rewards: ReferenceConfig,
) -> Iterator[Record]:
    """One record a video, in their order: its questions with their margins, or why it cannot be used.

    Margins are those of the paper's reward, in [−1, 1]; τ refers to their variance. A question without options has those of the
    reward ``likelihood``: against the control frames that ``rewards`` names.

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
            rows = _rows(questions.about(video), video, features, times, reference, config, rewards, strict=not scored)
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
    rewards: ReferenceConfig,
    strict: bool,
) -> list[Record]:
    def trial(example: Example) -> Trial:
        rng = question_rng(config.seed, video, example.question, config.budget)
        return Trial(features, times, example, torch.from_numpy(probe_subsets(len(times), config.budget, rng)))

    # Margins alone are looked at, whatever the reward; letters that turn between probes would pass for a difference in frames.
    rotation = "average" if rewards.rotation == "average" else "none"
    plain = rewards.model_copy(update={"reward": "margin", "open_reward": "likelihood", "rotation": rotation})
    found = judge_apart(reference, [[trial(example)] for example in examples], plain)
    errors = [judged for judged in found if isinstance(judged, ReferenceModelError)]
    if strict and len(errors) == len(examples):
        raise errors[0] from None
    return [_row(example, judged) for example, judged in zip(examples, found, strict=True)]


def _row(example: Example, judged: Sequence[Judgement] | ReferenceModelError) -> Record:
    """What is written of a question: the numbers follow from the margins as written."""
    if isinstance(judged, ReferenceModelError):
        return {"id": example.id, "error": str(judged)}
    margins = [round(margin, DIGITS) for margin in torch.tanh(judged[0].margins / 2).tolist()]
    return {
        "id": example.id,
        "variance": round(margin_variance(torch.tensor(margins)), DIGITS),
        "mean": round(sum(margins) / len(margins), DIGITS),
        "accuracy": round(sum(margin > 0 for margin in margins) / len(margins), DIGITS),
        "margins": margins,
    }


def reference_fingerprint(reference: ReferenceModel) -> str:
    """A short name for what a reference model's scores depend on: its weights; at a server, which model it is asked for, and how.

    Not for what it sees of frames alone, which is named by that (``reference_viewer``) and shared by models with one encoder.
    """
    if isinstance(reference, EnsembleReference):
        return " ".join(map(reference_fingerprint, reference.members))
    if isinstance(reference, EndpointReference):
        return hashlib.sha256(reference.identity.encode()).hexdigest()[:16]
    model = getattr(reference, "model", None)
    if isinstance(model, torch.nn.Module):
        return weights_digest(dict(model.state_dict()))
    return reference_viewer(reference).key
