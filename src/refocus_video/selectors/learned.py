"""The learned policy as a selector, and the front door for users: a video and a question in, a selection out."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from refocus_video.config import SamplingConfig
from refocus_video.errors import DataError, at_most
from refocus_video.policy.capture import CapturedStep
from refocus_video.policy.decode import Step
from refocus_video.policy.index import revision
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import VideoIndex
from refocus_video.selectors.base import Pick, question_rng, to_selection
from refocus_video.selectors.explain import Explanation
from refocus_video.selectors.live import GrowingVideo, LiveVideo
from refocus_video.selectors.picking import Options, Picking, choose, questions_at_once
from refocus_video.selectors.store import IndexStore
from refocus_video.selectors.stream import (
    OnProgress,
    extend_with,
    group_size,
    index_frames,
    index_video,
    no_progress,
    split,
)
from refocus_video.types import Candidates, FloatArray, Question, Selection, Timeline
from refocus_video.video.candidates import load_candidates
from refocus_video.video.pixels import scaled
from refocus_video.video.reader import VideoReader


class LastIndex:
    """The index of the video that was read last, for selectors that share one policy: the costly part is done once for all."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._key: tuple[str, bytes] | None = None
        self._index: VideoIndex | None = None

    def of(self, policy: FramePolicy, timeline: Timeline) -> VideoIndex:
        """The index of a video's candidates, read from the file unless they were the last.

        Raises:
            VideoError: if the frames cannot be read.
        """
        key = (timeline.video, timeline.frame_indices.tobytes())
        if self._index is None or key != self._key:
            with VideoReader(timeline.video) as reader:
                index = index_frames(policy, policy.start_index(), reader, timeline.frame_indices)
            self._key, self._index = key, index
        return self._index


@dataclass(frozen=True, slots=True)
class Learned:
    """The learned policy: frames picked one after another.

    The most probable each time, or as :class:`Picking` says.
    """

    policy: FramePolicy
    picking: Picking = field(default_factory=Picking)
    name: str = "policy"
    step: Step | None = None
    """As in ``pick_frames``."""
    last_index: LastIndex | None = None
    """Shared with the other selectors of this policy; None reads every video anew."""

    def open(self, candidates: Candidates | Timeline) -> "OpenLearned":
        """Encode and index the video: everything that does not depend on a question.

        Pictures of another size than the policy's are scaled.

        Raises:
            VideoError: if the frames of a timeline cannot be read.
        """
        if isinstance(candidates, Timeline):
            index = (self.last_index or LastIndex()).of(self.policy, candidates)
        else:
            side = self.policy.config.vision.image_size
            groups = (scaled(part, (side, side)) for part in split(candidates.frames, group_size(self.policy)))
            index = extend_with(self.policy, self.policy.start_index(), groups, len(candidates.frames))
        return OpenLearned(self, candidates.video, index, candidates.times)


@dataclass(frozen=True, slots=True)
class OpenLearned:
    """An indexed video; a question costs a few tokens and K single steps."""

    selector: Learned
    video: str
    index: VideoIndex
    times: FloatArray
    """Of the candidates in seconds, (F,)."""

    def pick(self, questions: Sequence[Question], budget: int, *, explain: bool = False) -> list[Pick]:
        """Pick for all questions together; each gets what it gets alone.

        Args:
            questions: any number, also none.
            budget: frames for each.
            explain: whether picks come with the distributions they were drawn from.

        Raises:
            BudgetError: unless so many frames can be picked.
        """
        many = questions_at_once(self.selector.policy.config, self.selector.picking, budget)
        parts = (questions[start : start + many] for start in range(0, len(questions), many))
        return [pick for part in parts for pick in self._together(part, budget, explain)]

    @torch.no_grad()
    def _together(self, questions: Sequence[Question], budget: int, explain: bool) -> list[Pick]:
        policy, picking = self.selector.policy, self.selector.picking
        asked = policy.ask(self.index, questions, torch.zeros(len(questions), dtype=torch.long))
        seeds = [question_rng(picking.seed, self.video, question, budget).integers(2**62) for question in questions]
        chosen = choose(
            policy,
            self.index,
            asked,
            budget,
            picking,
            times=torch.from_numpy(self.times)[None],  # (1, F)
            generators=[torch.Generator().manual_seed(int(seed)) for seed in seeds],  # the same on every device
            explain=explain,
            step=self.selector.step,
        )
        positions, probabilities = chosen.picks[:, 0].cpu().numpy(), _array(chosen.log_probs[:, 0].exp())
        if chosen.distributions is None:
            return [Pick(*pick) for pick in zip(positions, probabilities, strict=True)]
        distributions = _array(chosen.distributions[:, 0])  # (Q, K, F)
        return [Pick(*pick) for pick in zip(positions, probabilities, distributions, strict=True)]


def _array(x: Tensor) -> FloatArray:
    return np.asarray(x.cpu().double())


class FrameSelector:
    """Selects frames of video files with a trained policy.

    Example::

        selector = FrameSelector.from_pretrained("runs/demo/train/policy")
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
        step = CapturedStep(policy.backbone) if policy.device.type == "cuda" else None
        self._learned = Learned(self.policy, step=step)
        self.sampling = sampling
        self.store = store
        self._revision: tuple[list[tuple[int, int]], str] | None = None

    def __repr__(self) -> str:
        """A line: how large the policy is, where it runs, which frames are candidates, and where indexes are kept."""
        millions = sum(weight.numel() for weight in self.policy.parameters()) / 1e6
        dtype = str(self.policy.logit_scale.dtype).removeprefix("torch.")
        kept = "no store" if self.store is None else f"store {str(self.store.folder)!r}"
        rate, most = self.sampling.fps, self.sampling.max_frames
        frames = f"{rate:g} candidates a second, {f'at most {most}' if most else 'no limit'}"
        return f"FrameSelector({millions:.1f} M parameters, {self.policy.device}, {dtype}, {frames}, {kept})"

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype | Literal["auto"] = "auto",
        sampling: SamplingConfig | None = None,
        store: IndexStore | None = None,
    ) -> Self:
        """Load a policy from a folder or the Hugging Face Hub.

        Args:
            source: the folder, or a hub id such as ``owner/name``.
            device: "cuda", "cuda:1", "mps" or "cpu"; "auto" takes the first of them that is there.
            dtype: of the weights; "auto" is bfloat16 on a GPU where the checkpoint stores it, float32 otherwise.
            sampling: which frames are candidates; the paper's if left out.
            store: where indexes of videos are kept; None keeps none.

        Raises:
            CheckpointError: if there is none, or its weights do not fit.
            ConfigError: if there is no such device.
        """
        policy = FramePolicy.from_pretrained(source, device, dtype)
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
        return IndexedVideo(timeline, OpenLearned(self._learned, timeline.video, index, timeline.times))

    def select(
        self, video: str | Path, question: str | Question, frames: int = 8, **options: Unpack[Options]
    ) -> Selection:
        """Pick ``frames`` frames of a video for a question.

        Args:
            video: path of a video file.
            question: its text, or a :class:`Question` with options.
            frames: the budget, up to the number of candidates.
            **options: any of

                - ``temperature``: None picks greedily; a number samples.
                - ``seed``: of the sampling.
                - ``strategy``: "greedy", "sample", or of several sampled subsets the most probable one ("best-of"), the
                  one that the rank head likes best ("best-of-rank") or the frames that most of them hold ("marginal",
                  whose probabilities are the shares of subsets with the frame). None: as the temperature says.
                - ``samples``: how many subsets those three draw; 64 if left out.
                - ``min_gap``: seconds that the frames lie apart at least.
                - ``forced``: positions of candidates that are picked first, whatever the policy thinks of them.

        Raises:
            VideoError: if the file cannot be read as a video.
            BudgetError: if it has fewer candidate frames than asked for, or fewer that lie the gap apart; or if a forced
                pick does not exist, comes twice, or rules the budget out.
            ConfigError: if the options do not go together.
        """
        Picking.of(options)  # a wrong option is told before the video is decoded
        return self.open(video).select(question, frames, **options)

    def select_many(
        self, video: str | Path, questions: Sequence[str | Question], frames: int = 8, **options: Unpack[Options]
    ) -> list[Selection]:
        """Pick frames for several questions of a video, which are answered together; see :meth:`select`.

        Each question gets what it gets alone, sampled or not.
        """
        Picking.of(options)  # a wrong option is told before the video is decoded
        return self.open(video).select_many(questions, frames, **options)

    def explain(
        self, video: str | Path, question: str | Question, frames: int = 8, **options: Unpack[Options]
    ) -> Explanation:
        """Pick frames for a question and tell what the policy thought at each pick; see :meth:`select`."""
        Picking.of(options)  # a wrong option is told before the video is decoded
        return self.open(video).explain(question, frames, **options)


@dataclass(frozen=True, slots=True)
class IndexedVideo:
    """A video that has been looked at once."""

    timeline: Timeline
    """Which frames are its candidates."""
    indexed: OpenLearned

    def __repr__(self) -> str:
        """A line: the fields are a whole policy and everything that it keeps of the video."""
        return f"IndexedVideo({self.timeline.summary()})"

    def select(self, question: str | Question, frames: int = 8, **options: Unpack[Options]) -> Selection:
        """Pick frames for a question; see :meth:`FrameSelector.select`."""
        return self.select_many([question], frames, **options)[0]

    def select_many(
        self, questions: Sequence[str | Question], frames: int = 8, **options: Unpack[Options]
    ) -> list[Selection]:
        """Pick frames for several questions together; see :meth:`FrameSelector.select_many`."""
        if isinstance(questions, str):
            raise DataError(f"select_many takes a list of questions, found the text {questions!r}; put it into a list")
        asked = [_question(question) for question in questions]
        picks, name = self._picked(asked, frames, Picking.of(options)), self.indexed.selector.name
        return [to_selection(pick, self.timeline, q, name) for pick, q in zip(picks, asked, strict=True)]

    def explain(self, question: str | Question, frames: int = 8, **options: Unpack[Options]) -> Explanation:
        """Pick frames and tell what the policy thought at each pick; see :meth:`FrameSelector.explain`."""
        asked = _question(question)
        (pick,) = self._picked([asked], frames, Picking.of(options), explain=True)
        assert pick.distributions is not None, "an explanation was asked for"
        selection = to_selection(pick, self.timeline, asked, self.indexed.selector.name)
        return Explanation(selection, self.timeline, pick.positions, pick.distributions)

    def _picked(self, questions: list[Question], frames: int, picking: Picking, explain: bool = False) -> list[Pick]:
        frames = at_most(frames, len(self.timeline))
        learned = replace(self.indexed.selector, picking=picking)
        return replace(self.indexed, selector=learned).pick(questions, frames, explain=explain)


def _question(question: str | Question) -> Question:
    return Question(question) if isinstance(question, str) else question
