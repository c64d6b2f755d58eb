"""Policies on disk: what is saved is what is loaded, and what does not fit is named."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from refocus_video.errors import CheckpointError, ConfigError
from refocus_video.policy.index import revision
from refocus_video.policy.policy import FramePolicy
from tiny_policy import QUESTIONS, tiny_features, tiny_policy


def test_saved_and_loaded_policy_gives_the_same_log_probs(tmp_path: Path) -> None:
    policy = tiny_policy(attention_scaling=True, options_in_prompt=False)
    policy.save_pretrained(tmp_path / "deep" / "policy")
    loaded = FramePolicy.from_pretrained(str(tmp_path / "deep" / "policy"))
    assert loaded.config == policy.config
    assert not loaded.training
    assert not [name for name, part in [*loaded.named_parameters(), *loaded.named_buffers()] if part.is_meta]
    trained, learned = ({n for n, p in each.named_parameters() if p.requires_grad} for each in (policy, loaded))
    assert trained == learned
    frames = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(loaded.encode(frames), policy.encode(frames))
    features, rows, picks = tiny_features(policy), torch.tensor([0, 1]), torch.tensor([[[3, 1]], [[0, 8]]])
    expected, found = (
        each.log_probs(index, each.ask(index, QUESTIONS[:2], rows), picks).log_probs
        for each in (policy, loaded)
        for index in [each.index(features)]
    )
    assert torch.equal(expected, found)
    files = sorted(path.name for path in (tmp_path / "deep" / "policy").iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert not [name for name in files if name.endswith(".tmp")]


def test_saving_twice_replaces(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.save_pretrained(tmp_path)
    with torch.no_grad():
        policy.logit_scale.fill_(3)
    policy.save_pretrained(tmp_path)
    assert FramePolicy.from_pretrained(tmp_path).logit_scale.item() == 3


def test_type_of_the_weights_can_be_chosen(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    policy = FramePolicy.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert policy.key_head.weight.dtype == torch.bfloat16
    index = policy.index(tiny_features(policy))
    asked = policy.ask(index, QUESTIONS, torch.tensor([0, 1, 1, 0]))
    scores = policy.log_probs(index, asked, torch.tensor([[[0, 4, 2]]]).expand(4, -1, -1))
    assert scores.log_probs.dtype == torch.float32
    assert scores.log_probs.isfinite().all()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["stray"] = torch.zeros(1)
    weights["key_head.weight"] = torch.zeros(2, 2)
    del weights["logit_scale"]
    save_file(weights, tmp_path / "model.safetensors")
    message = (
        r"1 missing \(logit_scale\); 1 unexpected \(stray\); "
        r"1 wrong shape \(key_head.weight \(2, 2\) instead of \(16, 16\)\)"
    )
    with pytest.raises(CheckpointError, match=message):
        FramePolicy.from_pretrained(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"d_model": 32}))
    with pytest.raises(CheckpointError, match=r"wrong shape .* and [0-9]+ more"):
        FramePolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/at/all", "no policy folder at"),
        ("./nowhere", "no policy folder at"),
        ("nowhere", "no policy folder at"),
    ],
)
def test_missing_folders_are_named(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        FramePolicy.from_pretrained(name)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(tmp_path: Path, missing: str) -> None:
    tiny_policy().save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(CheckpointError, match=f"holds no {missing}"):
        FramePolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_broken_files_are_named(tmp_path: Path, broken: str) -> None:
    tiny_policy().save_pretrained(tmp_path)
    (tmp_path / broken).write_text("{ broken")
    with pytest.raises(CheckpointError, match=f"{broken} is not readable"):
        FramePolicy.from_pretrained(tmp_path)


def test_unknown_formats_and_settings_are_refused(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"colour": "red"}))
    with pytest.raises(ConfigError, match="unknown setting 'colour'"):
        FramePolicy.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(CheckpointError, match="found 'gpt2'"):
        FramePolicy.from_pretrained(tmp_path)


# ------------------------------------------------------------------ several files


@pytest.mark.parametrize("save", ["save_pretrained", "save_released"])
def test_large_weights_are_split_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str) -> None:
    policy = tiny_policy()
    getattr(policy, save)(tmp_path)
    whole = FramePolicy.from_pretrained(tmp_path).state_dict()
    monkeypatch.setattr("refocus_video.policy.checkpoint.MAX_SHARD_SIZE", 6000)
    getattr(policy, save)(tmp_path)
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert (
        shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    )  # and no model.safetensors, which would be read first
    places = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name for shard in shards for name in load_file(tmp_path / shard)} == places.keys()
    assert all(path.stat().st_size < 12_000 for path in tmp_path.glob("*.safetensors"))
    split = FramePolicy.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(part, split[name]) for name, part in whole.items())
    monkeypatch.setattr("refocus_video.policy.checkpoint.MAX_SHARD_SIZE", "5GB")
    getattr(policy, save)(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


# ------------------------------------------------------------------ the revision is kept under the files' names


def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files had been there for a while."""
    monkeypatch.setattr("refocus_video.policy.files._SETTLED_S", -1.0)


def test_the_revision_of_unchanged_files_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_policy().save_pretrained(tmp_path)
    settle(monkeypatch)
    first = revision(FramePolicy.from_pretrained(tmp_path))
    other = revision(FramePolicy.from_pretrained(tmp_path, dtype=torch.float64))
    assert first == revision(tiny_policy()) != other
    with monkeypatch.context() as patched:
        patched.setattr("refocus_video.policy.index._weights_digest", None)  # would fail if it were needed
        assert revision(FramePolicy.from_pretrained(tmp_path)) == first
        assert revision(FramePolicy.from_pretrained(tmp_path, dtype=torch.float64)) == other


def test_files_of_the_same_size_and_date_with_other_weights_have_another_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_policy().save_pretrained(tmp_path)
    settle(monkeypatch)
    path = tmp_path / "model.safetensors"
    first, before = revision(FramePolicy.from_pretrained(tmp_path)), path.stat()
    weights = load_file(path)
    weights["logit_scale"] += 1
    save_file(weights, path, {"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert revision(FramePolicy.from_pretrained(tmp_path)) != first


def test_weights_changed_after_loading_have_another_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_policy().save_pretrained(tmp_path)
    settle(monkeypatch)
    policy = FramePolicy.from_pretrained(tmp_path)
    first = revision(policy)
    with torch.no_grad():
        policy.logit_scale.add_(1)
    assert policy.origin is None
    assert revision(policy) != first
    assert revision(FramePolicy.from_pretrained(tmp_path)) == first


def test_files_that_have_only_just_changed_are_not_taken_for_known(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    assert FramePolicy.from_pretrained(tmp_path).origin is None
    with torch.inference_mode():
        assert FramePolicy.from_pretrained(tmp_path).origin is None
