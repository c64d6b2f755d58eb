"""The parts of a run between the commands and the mathematics: what it starts from, what the filter measures and resumes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from refocus_video.assets import locate
from refocus_video.cli.console import progress
from refocus_video.config import FilterConfig, ReferenceConfig, RunConfig, SamplingConfig, VisionConfig, named_config
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.errors import BudgetError, CheckpointError
from refocus_video.pipeline import filter_questions, train_policy
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.tower import load_tower
from refocus_video.reference.base import ReferenceModel
from refocus_video.train.features import FeatureStore
from refocus_video.train.filtering import measure, summary
from refocus_video.train.setup import load_reference, load_tokenizer, new_policy
from refocus_video.train.tiny_reference import TinyReferenceConfig, new_reference
from refocus_video.types import Example, Question
from tiny_policy import tiny_config, tiny_policy

FILTER = FilterConfig(budget=4, threshold=0.0)


def _settings(*overrides: str) -> RunConfig:
    return RunConfig.load(named_config("haystack"), overrides)


# ------------------------------------------------------------------ what a run starts from


def test_a_new_policy_depends_on_the_seed_alone() -> None:
    first = new_policy(_settings("train.seed=3")).state_dict()
    torch.manual_seed(99)
    second = new_policy(_settings("train.seed=3", "train.learning_rate=1")).state_dict()
    other = new_policy(_settings("train.seed=4")).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    different = {name for name, value in first.items() if not torch.equal(value, other[name])}
    assert {"key_head.weight", "query_head.weight", "backbone.embedding.weight"} <= different
    assert not any(name.startswith("vision.tower") for name in different)


def test_the_tower_of_a_new_policy_is_the_reference_model_s_and_frozen() -> None:
    policy = new_policy(_settings())
    stored = load_file(Path(locate("haystack-tiny", "reference")) / "model.safetensors")
    name = "embeddings.patch_embedding.weight"
    (there,) = [tensor for key, tensor in stored.items() if key.endswith(name)]
    assert torch.equal(policy.vision.tower.state_dict()[name], there.float())
    assert not any(p.requires_grad for p in policy.vision.tower.parameters())
    assert all(p.requires_grad for p in policy.vision.projector.parameters())


def test_a_run_can_start_from_an_earlier_policy(tmp_path: Path) -> None:
    earlier = tiny_policy()
    earlier.save_pretrained(tmp_path)
    found = new_policy(_settings(f"start.policy={tmp_path}"))
    assert found.config == earlier.config
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in earlier.state_dict().items())


def test_a_folder_without_a_tower_is_refused(tmp_path: Path) -> None:
    save_file({"language_model.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds 0 SigLIP towers .* expected one"):
        load_tower(tiny_policy().vision, tmp_path)
    with pytest.raises(CheckpointError, match="no vision tower at"):
        load_tower(tiny_policy().vision, tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="is not readable as safetensors"):
        load_tower(tiny_policy().vision, tmp_path)


def test_a_tower_of_another_size_is_refused() -> None:
    policy = tiny_policy()  # 8 wide; the bundled one is wider
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"the weights do not fit .*wrong shape \(.* instead of "):
        load_tower(policy.vision, locate("haystack-tiny", "reference"))
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_more_layers_than_the_tower_has_are_refused() -> None:
    vision = _settings().policy.vision.model_copy(update={"num_hidden_layers": 9})
    config = _settings().policy.model_copy(update={"vision": VisionConfig.model_validate(vision.model_dump())})
    policy = FramePolicy(config, load_tokenizer(locate("haystack-tiny", "reference")))
    with pytest.raises(CheckpointError, match="missing"):
        load_tower(policy.vision, locate("haystack-tiny", "reference"))


def test_a_tokenizer_or_reference_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot load the tokenizer"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(CheckpointError, match="no reference model in"):
        load_reference(ReferenceConfig(model=str(tmp_path)))


# ------------------------------------------------------------------ the filter


@pytest.fixture(scope="module")
def examples(haystack: Path) -> list[Example]:
    return read_examples(haystack / "validation.jsonl")


@pytest.fixture(scope="module")
def store(examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    config = RunConfig(sampling=SamplingConfig(fps=2.0), policy=tiny_config())
    reference = new_reference(TinyReferenceConfig(width=32, layers=2))
    reference.answer_mode = "words"
    store = FeatureStore(tmp_path_factory.mktemp("features"), config, tiny_policy(), reference)
    assert store.build(dict.fromkeys(e.video for e in examples)) == {}
    return store


class Counting:
    """A reference model that counts the questions put to it."""

    def __init__(self, inner: ReferenceModel) -> None:
        self.inner, self.asked = inner, 0

    @property
    def image_size(self) -> tuple[int, int]:
        return self.inner.image_size

    def encode(self, frames: Any) -> torch.Tensor:
        return self.inner.encode(frames)

    def score(self, requests: Any) -> Any:
        self.asked += len(requests)
        return self.inner.score(requests)


def test_a_filter_that_was_cut_goes_on_to_the_same_file(
    examples: list[Example], store: FeatureStore, tmp_path: Path
) -> None:
    path = tmp_path / "variances.jsonl"
    expected = measure(examples, store, store.reference, FILTER, path)
    whole = path.read_bytes()
    assert whole.count(b"\n") == len(examples) == len(expected)
    assert len(set(expected.values())) > 1
    first_video = sum(example.video == examples[0].video for example in examples)
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:first_video]) + lines[first_video][:-7])
    counting = Counting(store.reference)
    assert measure(examples, store, counting, FILTER, path) == expected
    assert path.read_bytes() == whole
    assert counting.asked == len(examples) - first_video
    assert measure(examples, store, counting, FILTER, path) == expected
    assert counting.asked == len(examples) - first_video  # a finished one asks nothing


def test_a_variance_does_not_depend_on_the_other_questions(
    examples: list[Example], store: FeatureStore, tmp_path: Path
) -> None:
    together = measure(examples, store, store.reference, FILTER, tmp_path / "together.jsonl")
    alone = measure(examples[3:4], store, store.reference, FILTER, tmp_path / "alone.jsonl")
    assert alone[examples[3].id] == pytest.approx(together[examples[3].id], abs=1e-5)


def test_probes_that_do_not_fit_the_video_are_refused(
    examples: list[Example], store: FeatureStore, tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match="the smallest window"):
        measure(examples, store, store.reference, FilterConfig(budget=40), tmp_path / "v.jsonl")
    assert (tmp_path / "v.jsonl").read_bytes() == b""


def _example(name: str, kind: str, answer: int) -> Example:
    return Example(name, f"{name}.mp4", Question("what?", ("a", "b")), answer, question_type=kind)


def test_the_summary_counts_every_question_that_was_asked() -> None:
    examples = [_example("a", "x", 0), _example("b", "x", 1), _example("c", "y", 1), _example("d", "y", 0)]
    numbers = summary(examples, {"a": 0.5, "b": 0.2, "c": 0.9}, 0.2, {"d.mp4": "broken"})
    assert (numbers["asked"], numbers["measured"], numbers["kept"], numbers["unreadable"]) == (4, 3, 2, 1)
    assert numbers["asked_by_type"] == {"x": 2, "y": 2}  # the unreadable one too
    assert numbers["kept_by_type"] == {"x": 1, "y": 1}  # a variance at the threshold is not above it
    assert (numbers["letters_before"], numbers["letters_after"]) == ({"A": 1, "B": 2}, {"A": 1, "B": 1})
    assert sum(numbers["histogram"]["counts"]) == 3
    assert numbers["failures"] == {"d.mp4": "broken"}
    assert json.loads(json.dumps(numbers)) == numbers


def test_a_video_too_short_for_the_budgets_is_counted_before_the_work_begins(haystack: Path, tmp_path: Path) -> None:
    examples = read_examples(haystack / "train.jsonl")
    still = tmp_path / "still.mp4"
    write_mp4(still, np.zeros((4, 96, 96, 3), np.uint8), fps=8)
    short = replace(examples[0], id="short", video=str(still))
    questions = tmp_path / "questions.jsonl"
    write_examples(questions, [*examples[:3], short])
    tiny = ("train.max_steps=1", "train.stages=[{until: 1, budgets: [2, 3]}]", "filter.budget=2")
    trained = train_policy(questions, tmp_path / "train", _settings(*tiny), progress)
    assert trained["examples"] == 3
    assert "gives 2 candidate frames, too few" in trained["failures"][str(still)]
    filtered = filter_questions(questions, tmp_path / "filter", _settings(*tiny), progress)
    assert (filtered["asked"], filtered["measured"], filtered["unreadable"]) == (4, 3, 1)
