"""Released checkpoints: a tiny one gives the numbers of the published code, and unknown options are refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from refocus_video.errors import CheckpointError
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import Asked, FramePolicy, VideoIndex
from refocus_video.policy.released import TOWERS
from refocus_video.types import Question
from tiny_policy import tiny_tokenizer

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "selector-tiny"

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference numbers are not beside this checkout")

VISUAL = -200
"""Marks the place of the frames among the prompt's tokens."""


class FixedTokens:
    """Stands for the tokenizer, which the tiny checkpoint has none of: the two texts around the frames."""

    def __init__(self, ids: list[int]) -> None:
        place = ids.index(VISUAL)
        self.before, self.after = ids[:place], ids[place + 1 :]

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return self.after if text.startswith("\n") else self.before

    def save_pretrained(self, save_directory: str | Path) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module", autouse=True)
def tiny_tower() -> Iterator[None]:
    """The tiny checkpoint names the published tower, but its own is 32 wide with 2 heads, which no file states."""
    with pytest.MonkeyPatch.context() as patch:
        (name,) = TOWERS
        patch.setitem(TOWERS, name, {"image_size": 384, "hidden_size": 32, "num_attention_heads": 2})
        yield


@pytest.fixture(scope="module")
def policy() -> FramePolicy:
    ids = load_file(GOLDEN / "inputs.safetensors")["input_ids"].tolist()
    return FramePolicy.from_pretrained(GOLDEN, tokenizer=FixedTokens(ids))


@pytest.fixture(scope="module")
def features(policy: FramePolicy) -> Tensor:
    small = load_file(GOLDEN / "inputs.safetensors")["pixel_values_48"].float()
    pixels = small.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return torch.cat([policy.vision.features(part) for part in torch.split(pixels, 5)])


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    numbers: dict[str, Tensor] = load_file(GOLDEN / "expected.safetensors")
    return numbers


def index_and_ask(policy: FramePolicy, features: Tensor, segment: int | None) -> tuple[VideoIndex, Asked]:
    index = policy.index(features[None], segment=segment)
    return index, policy.ask(index, [Question("fixed")], torch.tensor([0]))


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("segment", [None, 10, 4, 1])
@torch.no_grad()
def test_numbers_are_those_of_the_published_code(
    policy: FramePolicy, features: Tensor, expected: dict[str, Tensor], segment: int | None
) -> None:
    before = len(policy.tokenizer.encode("", add_special_tokens=False))
    tails = before + 196 * torch.arange(1, 11) - 1
    assert torch.equal(expected["visual_mask"].nonzero().flatten(), tails)

    tail_hidden, _ = policy._run_frames(features[None], policy._prefix_state(), None)
    assert_close(tail_hidden[0], expected["tail_hidden"])
    index, asked = index_and_ask(policy, features, segment)
    assert_close(index.keys[0], expected["frame_keys"])
    assert_close(index.values[0], expected["frame_values"])
    assert_close(asked.state.layers[-1].ssm, expected["final_ssm_state_last_layer"])
    assert_close(asked.state.layers[-1].conv, expected["final_conv_state_last_layer"])
    scores = policy.log_probs(index, asked, expected["candidates"][None])
    assert_close(scores.log_probs[0], expected["selection_logp"])
    assert_close(scores.log_probs[0], expected["sampler_logp"])


@torch.no_grad()
def test_whole_distributions_are_those_of_the_published_code(
    policy: FramePolicy, features: Tensor, expected: dict[str, Tensor]
) -> None:
    """Force the sampler along each subset, and compare the probability of every frame at every pick."""
    index, asked = index_and_ask(policy, features, None)
    candidates = expected["candidates"]  # (4, 6)
    found = torch.full_like(expected["step_logp"], -1e30)
    for step in range(candidates.shape[1]):
        for frame in range(10):
            open_rows = ~(candidates[:, :step] == frame).any(-1)
            tried = torch.cat([candidates[:, :step], torch.full((4, 1), frame)], 1)
            log_p = policy.log_probs(index, asked, tried[None]).log_probs[0, :, -1]
            found[open_rows, step, frame] = log_p[open_rows]
    assert torch.equal(found == -1e30, expected["step_logp"] == -1e30)
    assert_close(found, expected["step_logp"])
    greedy = pick_frames(policy, index, asked, 1, greedy=True, keep_distributions=True)
    assert greedy.distributions is not None
    assert_close(greedy.distributions[0, 0, 0].log(), expected["step_logp"][0, 0])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("value_head_norm", "rmsnorm"),
        ("score_head_norm", True),
        ("value_head_scale", True),
        ("logit_scale_type", "vector"),
        ("logit_scale_fn", "exp"),
        ("use_rank_head", True),
        ("frame_generation_method", "block"),
        ("attn_layer_idx", [1]),
        ("mm_vision_tower", "openai/clip-vit-large-patch14"),
        ("ssm_cfg", {"layer": "Mamba1"}),
        ("ssm_cfg", {"layer": "Mamba2", "ngroups": 2}),
    ],
)
def test_options_that_are_not_supported_are_refused(tmp_path: Path, option: str, value: Any) -> None:
    config = json.loads((GOLDEN / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {option: value}))
    shutil.copyfile(GOLDEN / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="supported"):
        FramePolicy.from_pretrained(tmp_path)


def test_a_changed_tower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = TOWERS
    monkeypatch.setitem(TOWERS, name, {"image_size": 384, "hidden_size": 1152, "num_attention_heads": 16})
    with pytest.raises(CheckpointError, match="has width 1152, found weights of width 32"):
        FramePolicy.from_pretrained(GOLDEN)


def test_a_loaded_checkpoint_is_saved_in_our_format(policy: FramePolicy, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    FramePolicy.from_pretrained(GOLDEN, tokenizer=tokenizer).save_pretrained(tmp_path)
    again = FramePolicy.from_pretrained(tmp_path)
    assert again.config == policy.config
    weights = policy.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    weights = load_file(GOLDEN / "model.safetensors")
    del weights["backbone.embedding.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    shutil.copyfile(GOLDEN / "config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"backbone\.embedding\.weight"):
        FramePolicy.from_pretrained(tmp_path)
