"""The learned policy as a selector, and the front door for users: a video and a question in, a selection out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch

from refocus_video.config import SamplingConfig
from refocus_video.errors import check_budget
from refocus_video.policy.index import revision
from refocus_video.policy.policy import FramePolicy, VideoIndex
from refocus_video.selectors.base import Pick, question_rng, to_selection
from refocus_video.selectors.live import GrowingVideo, LiveVideo
from refocus_video.selectors.picking import Picking, Strategy, choose
from refocus_video.selectors.store import IndexStore
from refocus_video.selectors.stream import (
    OnProgress,
    extend_with,
    group_size,
    index_video,
    no_progress,
    split,
)
from refocus_video.types import Candidates, FloatArray, Question, Selection, Timeline
from refocus_video.video.candidates import load_candidates


@dataclass(frozen=True, slots=True)
class Learned:
    """Frames picked by the policy, one after another: the most probable each time, or as :class:`Picking` says."""

    policy: FramePolicy
    temperature: float | None = None
    """None picks greedily, unless there is a strategy."""
    seed: int = 0
    name: str = "policy"
    strategy: Strategy | None = None
    samples: int | None = None
    min_gap: float = 0.0

    def __post_init__(self) -> None:
        _ = self.picking

    @property
    def picking(self) -> Picking:
        """The options, checked."""
        return Picking(self.strategy, self.temperature, self.samples, self.min_gap)

    def open(self, candidates: Candidates) -> "OpenLearned":
        """Encode and index the video: everything that does not depend on a question."""
        groups = split(candidates.frames, group_size(self.policy))
        index = extend_with(self.policy, self.policy.start_index(), groups)
        return OpenLearned(self, candidates.video, index, candidates.times)


@dataclass(frozen=True, slots=True)
class OpenLearned:
    """An indexed video; a question costs a few tokens and K single steps."""

    selector: Learned
    video: str
    index: VideoIndex
    times: FloatArray
    """Of the candidates in seconds, (F,)."""

    @torch.no_grad()
    def pick(self, questions: Sequence[Question], budget: int) -> list[Pick]:
        """See :class:`refocus_video.selectors.base.OpenVideo`."""
        if not questions:
            return []
        policy, picking = self.selector.policy, self.selector.picking
        if not picking.greedy and len(questions) > 1:  # so that each has the random numbers it has alone
            return [pick for question in questions for pick in self.pick([question], budget)]
        asked = policy.ask(self.index, questions, torch.zeros(len(questions), dtype=torch.long))
        generator = torch.Generator(policy.device)
        if not picking.greedy:
            generator.manual_seed(
                int(question_rng(self.selector.seed, self.video, questions[0], budget).integers(2**62))
            )
        times = torch.from_numpy(self.times)[None]  # (1, F)
        chosen = choose(policy, self.index, asked, budget, picking, times=times, generator=generator)
        positions, probabilities = chosen.picks[:, 0].cpu().numpy(), chosen.log_probs[:, 0].exp().double().cpu().numpy()
        return [Pick(p, q) for p, q in zip(positions, probabilities, strict=True)]


class FrameSelector:
    """Selects frames of video files with a trained policy.

    Example::

        selector = FrameSelector.from_pretrained("runs/demo/policy")
        selection = selector.select("talk.mp4", "What is on the second slide?", frames=8)
        selection.times
    """

    def __init__(
        self,
        policy: FramePolicy,
        *,
        sampling: SamplingConfig = SamplingConfig(),  # noqa: B008
        store: IndexStore | None = None,
    ) -> None:
        """Wrap a loaded policy; with a store, videos are indexed once and for all."""
        self.policy = policy.eval()
        self.sampling = sampling
        self.store = store
        self._revision: tuple[list[tuple[int, int]], str] | None = None

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str = "cpu",
        sampling: SamplingConfig | None = None,
        store: IndexStore | None = None,
    ) -> Self:
        """Load a policy from a folder or the Hugging Face Hub.

        Raises:
            CheckpointError: if there is none, or its weights do not fit.
        """
        policy = FramePolicy.from_pretrained(source, device=device)
        return cls(policy, sampling=sampling or SamplingConfig(), store=store)

    def candidates(self, video: str | Path) -> Candidates:
        """Decode the candidate frames of a video at the size that the policy looks at.

        Raises:
            VideoError: if the file cannot be read as a video.
        """
        side = self.policy.config.vision.image_size
        return load_candidates(str(video), (side, side), self.sampling)

    def open(self, video: str | Path, progress: OnProgress = no_progress) -> "IndexedVideo":
        """Decode, encode and index a video once, as a stream; then ask it any number of questions.

        Args:
            video: path of a video file, of any length: only what is needed to pick is kept, no pictures.
            progress: called while indexing, with frames done and frames a second.

        Raises:
            VideoError: if the file cannot be read as a video.
            StoreError: if there is a store, and the index in it is damaged or cannot be written.
        """
        if self.store is None:
            return self._indexed(*index_video(self.policy, video, self.sampling, progress=progress))
        opened = self.store.open(self.policy, self.revision, video, self.sampling, progress)
        return self._indexed(opened.timeline, opened.index)

    @property
    def revision(self) -> str:
        """A short name for exactly these weights and settings; made again when the weights have changed."""
        seen = [(weight.data_ptr(), weight._version) for weight in self.policy.state_dict(keep_vars=True).values()]
        if self._revision is None or self._revision[0] != seen:
            self._revision = seen, revision(self.policy)
        return self._revision[1]

    def live(self, name: str = "live") -> "LiveVideo":
        """A video whose frames the caller hands over as they come; ``name`` is what selections call it."""
        return LiveVideo(self.policy, name, self._indexed)

    def follow(self, path: str | Path) -> "GrowingVideo":
        """A video file that is still being written: what is there is indexed, ``refresh`` appends what came since.

        Raises:
            VideoError: if the file cannot be read as a video.
        """
        video = GrowingVideo(self.policy, path, self.sampling.fps, self._indexed)
        video.refresh()
        return video

    def _indexed(self, timeline: Timeline, index: VideoIndex) -> "IndexedVideo":
        return IndexedVideo(timeline, OpenLearned(Learned(self.policy), timeline.video, index, timeline.times))

    def select(
        self,
        video: str | Path,
        question: str | Question,
        frames: int = 8,
        *,
        temperature: float | None = None,
        seed: int = 0,
        strategy: Strategy | None = None,
        samples: int | None = None,
        min_gap: float = 0.0,
    ) -> Selection:
        """Pick ``frames`` frames of a video for a question.

        Args:
            video: path of a video file.
            question: its text, or a :class:`Question` with options.
            frames: the budget.
            temperature: None picks greedily; a number samples.
            seed: of the sampling.
            strategy: "greedy", "sample", or of several sampled subsets the most probable one ("best-of"), the one that
                the rank head likes best ("best-of-rank") or the frames that most of them hold ("marginal", whose
                probabilities are the shares of subsets with the frame). None: as the temperature says.
            samples: how many subsets those three draw; 64 if left out.
            min_gap: seconds that the frames lie apart at least.

        Raises:
            VideoError: if the file cannot be read as a video.
            BudgetError: if it has fewer candidate frames than asked for, or fewer that lie the gap apart.
            ConfigError: if the options do not go together.
        """
        return self.open(video).select(
            question,
            frames,
            temperature=temperature,
            seed=seed,
            strategy=strategy,
            samples=samples,
            min_gap=min_gap,
        )


@dataclass(frozen=True, slots=True)
class IndexedVideo:
    """A video that has been looked at once."""

    timeline: Timeline
    """Which frames are its candidates."""
    indexed: OpenLearned

    def select(
        self,
        question: str | Question,
        frames: int = 8,
        *,
        temperature: float | None = None,
        seed: int = 0,
        strategy: Strategy | None = None,
        samples: int | None = None,
        min_gap: float = 0.0,
    ) -> Selection:
        """Pick frames for a question; see :meth:`FrameSelector.select`."""
        check_budget(frames, len(self.timeline))
        asked = Question(question) if isinstance(question, str) else question
        learned = replace(
            self.indexed.selector,
            temperature=temperature,
            seed=seed,
            strategy=strategy,
            samples=samples,
            min_gap=min_gap,
        )
        pick = replace(self.indexed, selector=learned).pick([asked], frames)[0]
        return to_selection(pick, self.timeline, asked, learned.name)
