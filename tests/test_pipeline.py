"""The parts of a run between the commands and the mathematics: what it starts from, and which videos it cannot use."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from refocus_video.assets import locate
from refocus_video.cli.console import progress
from refocus_video.config import FilterConfig, ReferenceConfig, RunConfig, VisionConfig, named_config
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.data.haystack.generate import write_mp4
from refocus_video.errors import CheckpointError
from refocus_video.filter_run import filter_questions
from refocus_video.pipeline import train_policy
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.tower import load_tower
from refocus_video.train.setup import load_reference, load_tokenizer, new_policy
from tiny_policy import tiny_policy

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


# ------------------------------------------------------------------ videos that cannot be used


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
