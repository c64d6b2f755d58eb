"""Settings and weights that nothing can be made of: one line that names them, before anything is built."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from refocus_video.assets import locate
from refocus_video.config import RunConfig, named_config
from refocus_video.errors import CheckpointError, ConfigError
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors.known import make_selector
from refocus_video.selectors.learned import FrameSelector
from refocus_video.selectors.relevance import Relevance


@pytest.mark.parametrize(
    ("override", "said"),
    [
        *((f"policy.d_model={value}", "'policy.d_model'") for value in ("-64", "0", "100000000")),
        *((f"policy.{key}=0", f"'policy.{key}'") for key in ("d_conv", "chunk_size", "headdim", "n_layer", "expand")),
        *((f"policy.vision.{key}=0", f"'policy.vision.{key}'") for key in ("patch_size", "num_attention_heads")),
        ("policy.vision.patch_size=1000", "patch_size 1000 must be at most image_size 384"),
        ("policy.n_layer=10000000", "less than or equal to 1024, found 10000000"),
        ("sampling.fps=.inf", "'sampling.fps': .*finite"),
        ("train.learning_rate=.nan", "'train.learning_rate'"),
        ("train.stages=[]", "'train.stages': .*needs at least one stage"),
        ("train={seed: 1, seed: 2}", "the key 'seed' stands twice in one group"),
        (f"train={'[' * 3000}", "nested too deep"),
        ("trian.seed=1", r"unknown setting 'trian' \(did you mean 'train'\?\)"),
        ("policy.preset=lte", r"no preset 'lte' \(did you mean 'lite'\?\)"),
    ],
)
def test_an_impossible_setting_is_one_short_line(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        RunConfig.load(None, (override,))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


def test_a_yaml_file_is_read_as_strictly(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {seed: 1}\nfilter: {budget: 2}\ntrain: {seed: 2}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the key 'train' stands twice"):
        RunConfig.load(path)
    path.write_text("a: &a\n" + "".join(f"{' ' * depth}a:\n" for depth in range(1, 3000)), encoding="utf-8")
    with pytest.raises(ConfigError, match="nested too deep"):
        RunConfig.load(path)
    with pytest.raises(ConfigError, match=r"no configuration file at haystak \(did you mean 'haystack'\?\)"):
        named_config("haystak")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: torch.ones_like(weight, dtype=torch.int64), "is int64, expected floating-point numbers"),
        (lambda weight: torch.full_like(weight, torch.nan), "holds NaN or infinity"),
        (lambda weight: torch.full_like(weight, torch.inf), "holds NaN or infinity"),
    ],
)
def test_weights_that_are_no_numbers_are_named(change: Any, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(locate("haystack-tiny", "policy"), folder)
    weights = load_file(folder / "model.safetensors")
    name = max(weights)
    save_file(weights | {name: change(weights[name])}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{name} {said}"):
        FramePolicy.from_pretrained(folder)


def test_a_large_sum_of_finite_weights_is_no_fault(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(locate("haystack-tiny", "policy"), folder)
    weights = load_file(folder / "model.safetensors")
    name = max(weights)
    save_file(weights | {name: torch.full_like(weights[name], 3e38)}, folder / "model.safetensors")
    FramePolicy.from_pretrained(folder)


def test_the_bundled_name_stands_for_the_part_that_is_wanted() -> None:
    assert isinstance(FrameSelector.from_pretrained("haystack-tiny", device="cpu"), FrameSelector)
    assert isinstance(Relevance.from_pretrained("haystack-tiny"), Relevance)
    with pytest.raises(CheckpointError, match=r"no policy folder at haystack-tny \(did you mean 'haystack-tiny'\?\)"):
        FramePolicy.from_pretrained("haystack-tny")


def test_a_selector_without_its_part_shows_how_it_is_given() -> None:
    with pytest.raises(ConfigError, match=r"needs relevance scores.*, as in topk,relevance=google/siglip2"):
        make_selector("topk")
    with pytest.raises(ConfigError, match=r"found 'relevence': did you mean 'relevance'\?"):
        make_selector("topk", relevence="haystack-tiny")
