"""Released checkpoints: a tiny one gives the numbers of the published code; every option, container and error of the format."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from refocus_video.config import VisionConfig
from refocus_video.errors import BudgetError, CheckpointError
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import Asked, VideoIndex
from refocus_video.policy.released import TOWER
from refocus_video.policy.verify import verify_checkpoint
from tiny_policy import QUESTIONS, tiny_features, tiny_policy, tiny_tokenizer

GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "selector-tiny"

needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference numbers are not beside this checkout")

GOLDEN_TOWER = VisionConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=384, patch_size=14
)
"""The tiny checkpoint names the published tower, but its own is smaller; no file states its 2 heads."""

OPTIONS: list[dict[str, Any]] = [
    {},
    {"value_head_norm": "l2"},
    {"value_head_norm": "rmsnorm", "value_head_scale": 0.5},
    {"score_head_norm": "l2"},
    {"score_head_norm": "rmsnorm", "attention_scaling": True},
    {"logit_scale_type": "vector"},
    {"logit_scale_fn": "exp"},
    {"logit_scale_type": "vector", "logit_scale_fn": "exp", "attention_scaling": True},
    {"use_rank_head": True, "value_head_norm": "l2", "score_head_norm": "rmsnorm"},
    {"frame_generation_method": "block", "query_frames": 7},
    {"frame_generation_method": "block", "query_frames": 7, "score_head_norm": "l2", "logit_scale_type": "vector"},
]


def with_option(**changes: Any) -> FramePolicy:
    """A tiny policy whose every weight differs from its initial value, so that each one matters."""
    policy = tiny_policy(**changes)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if not name.startswith("vision.tower"):
                weight.add_(0.1 * torch.randn_like(weight))
    return policy


def open_video(policy: FramePolicy) -> tuple[VideoIndex, Asked]:
    index = policy.index(tiny_features(policy), torch.tensor([9, 8]))
    return index, policy.ask(index, QUESTIONS, torch.tensor([1, 0, 0, 1]))


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def rewrite(folder: Path, fields: dict[str, Any] | None = None, weights: dict[str, Tensor] | None = None) -> None:
    if fields is not None:
        (folder / "config.json").write_text(json.dumps(fields))
    if weights is not None:
        save_file(weights, folder / "model.safetensors")


def assert_same_policy(found: FramePolicy, expected: FramePolicy) -> None:
    assert found.config == expected.config
    weights = expected.state_dict()
    assert found.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.state_dict().items())


# The tiny checkpoint with reference numbers


@needs_golden
def test_numbers_are_those_of_the_published_code() -> None:
    """The number of attention heads, which no file tells, is found by the numbers themselves."""
    rows = verify_checkpoint(GOLDEN)
    expected = load_file(GOLDEN / "expected.safetensors").keys() - {"candidates"}
    assert {row.name for row in rows} == {f"{name} ({way})" for name in expected for way in ("whole", "streamed")}
    assert not [row for row in rows if not row.ok]


@needs_golden
def test_another_number_of_heads_is_noticed() -> None:
    rows = verify_checkpoint(GOLDEN, vision=GOLDEN_TOWER.model_copy(update={"num_attention_heads": 4}))
    wrong = {row.name for row in rows if not row.ok}
    assert "tail_hidden (whole)" in wrong and "visual_mask (whole)" not in wrong


@needs_golden
def test_a_tower_unlike_its_name_needs_sizes() -> None:
    with pytest.raises(CheckpointError, match=r"has width 1152 .* weights of width 32 .* vision=VisionConfig"):
        FramePolicy.from_pretrained(GOLDEN, tokenizer=tiny_tokenizer())


@needs_golden
@pytest.mark.parametrize("output", ["none", "tied", "separate"])
def test_a_released_checkpoint_is_given_back_as_it_was(tmp_path: Path, output: str) -> None:
    fields, weights = read(GOLDEN)
    table = weights["backbone.embedding.weight"]
    if output != "none":
        weights["lm_head.weight"] = table.clone() if output == "tied" else torch.randn_like(table)
        fields["tie_embeddings"] = output == "tied"
    weights[TOWER + "head.probe"] = torch.randn(1, 1, 32)
    weights[TOWER + "encoder.layers.2.layer_norm1.weight"] = torch.randn(32)  # of the layer that does not run
    (tmp_path / "in").mkdir()
    rewrite(tmp_path / "in", fields, weights)
    policy = FramePolicy.from_pretrained(tmp_path / "in", tokenizer=tiny_tokenizer(), vision=GOLDEN_TOWER)
    unused = {f"{TOWER}{name}" for name in ("head.probe", "post_layernorm.weight", "post_layernorm.bias")}
    unused |= {f"{TOWER}encoder.layers.2.layer_norm1.weight"} | ({"lm_head.weight"} if output != "none" else set())
    assert set(policy.unused_weights) == unused
    policy.save_released(tmp_path / "out")
    fields_again, weights_again = read(tmp_path / "out")
    assert fields_again == fields
    assert weights_again.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_again.items())


@needs_golden
def test_a_trained_start_token_goes_back_to_its_row(tmp_path: Path) -> None:
    policy = FramePolicy.from_pretrained(GOLDEN, tokenizer=tiny_tokenizer(), vision=GOLDEN_TOWER)
    with torch.no_grad():
        policy.start_of_frame.fill_(7)
    policy.save_released(tmp_path)
    assert (read(tmp_path)[1]["backbone.embedding.weight"][249] == 7).all()
    again = FramePolicy.from_pretrained(tmp_path, vision=GOLDEN_TOWER)
    assert (again.start_of_frame == 7).all()


@needs_golden
def test_a_released_checkpoint_is_saved_in_our_format(tmp_path: Path) -> None:
    policy = FramePolicy.from_pretrained(GOLDEN, tokenizer=tiny_tokenizer(), vision=GOLDEN_TOWER)
    policy.save_pretrained(tmp_path)
    again = FramePolicy.from_pretrained(tmp_path)
    assert_same_policy(again, policy)
    assert again.unused_weights == ()
    with pytest.raises(CheckpointError, match="our own format"):
        FramePolicy.from_pretrained(tmp_path, vision=GOLDEN_TOWER)


# Head options


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_head_option_survives_the_released_format(tmp_path: Path, options: dict[str, Any]) -> None:
    policy = with_option(**options)
    policy.save_released(tmp_path)
    again = FramePolicy.from_pretrained(tmp_path)
    assert_same_policy(again, policy)
    index, asked = open_video(policy)
    picks = pick_frames(policy, index, asked, 5, 3).picks
    index_again, asked_again = open_video(again)
    expected = policy.log_probs(index, asked, picks)
    assert torch.equal(again.log_probs(index_again, asked_again, picks).log_probs, expected.log_probs)
    again.save_released(tmp_path / "again")
    fields, weights = read(tmp_path)
    fields_again, weights_again = read(tmp_path / "again")
    assert fields_again == fields
    assert weights_again.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_again.items())
    assert_same_policy(FramePolicy.from_pretrained(tmp_path / "again"), policy)
    again.save_pretrained(tmp_path / "ours")
    assert_same_policy(FramePolicy.from_pretrained(tmp_path / "ours"), policy)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_sampler_and_scorer_agree_and_every_weight_matters(options: dict[str, Any]) -> None:
    policy = with_option(**options)
    index, asked = open_video(policy)
    picked = pick_frames(policy, index, asked, 7, 5, keep_distributions=True)
    assert (picked.picks.sort(-1).values.diff() > 0).all(), "no frame twice"
    scores = policy.log_probs(index, asked, picked.picks)
    torch.testing.assert_close(scores.log_probs, picked.log_probs, rtol=0, atol=2e-5)
    assert picked.distributions is not None
    entropy = torch.special.entr(picked.distributions).sum(-1)
    torch.testing.assert_close(scores.entropy, entropy, rtol=0, atol=2e-5)
    loss = (scores.log_probs * torch.rand_like(scores.log_probs)).sum()
    if policy.config.use_rank_head:
        loss = loss + policy.rank_scores(index, asked, picked.picks).square().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    for name, weight in policy.named_parameters():
        moved = weight.grad is not None and bool(weight.grad.abs().max() > 0)
        assert moved != name.startswith("vision.tower."), name


def test_norms_and_scales_are_those_of_the_method() -> None:
    policy = with_option(
        value_head_norm="rmsnorm", score_head_norm="l2", logit_scale_type="vector", logit_scale_fn="exp"
    )
    features = tiny_features(policy)
    index = policy.index(features)
    hidden, _ = policy.hidden_states(features)
    keys = F.linear(hidden, policy.key_head.weight)
    torch.testing.assert_close(index.keys, keys / keys.norm(dim=-1, keepdim=True))
    values = F.linear(hidden, policy.value_head.weight, policy.value_head.bias)
    values = values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt() * policy.value_head_scale
    torch.testing.assert_close(index.values, values)
    queries, none_taken = torch.randn(2, 3, 16), torch.zeros(2, 3, 9, dtype=torch.bool)
    logits = policy.pick_logits(queries, index.keys, none_taken, index.valid, temperature=2)
    expected = torch.einsum("qnd,d,qfd->qnf", queries, policy.logit_scale.exp(), index.keys) / 2
    torch.testing.assert_close(logits, expected)


def test_initial_scales_are_one_for_every_option() -> None:
    for function in ("softplus", "exp"):
        policy = tiny_policy(
            logit_scale_fn=function, logit_scale_type="vector", value_head_norm="l2", value_head_scale=3
        )
        none_taken = torch.zeros(1, 1, 9, dtype=torch.bool)
        queries, keys = torch.randn(1, 1, 16), torch.randn(1, 9, 16)
        logits = policy.pick_logits(queries, keys, none_taken, none_taken[:, 0].logical_not())
        torch.testing.assert_close(logits, queries @ keys.mT)
        assert (policy.value_head_scale == 3).all()


def test_the_rank_head_reads_the_hidden_state_after_the_last_pick() -> None:
    policy = with_option(use_rank_head=True)
    index, asked = open_video(policy)
    picks = torch.stack([torch.randperm(8)[:4] for _ in range(8)]).view(4, 2, 4)
    scores = policy.rank_scores(index, asked, picks)
    assert scores.shape == (4, 2)
    for q, row in enumerate(asked.rows.tolist()):
        for g in range(2):
            fed = torch.cat([policy.start_of_frame[None], index.values[row, picks[q, g]]])[None]  # (1, 1 + K, D)
            hidden, _ = policy.backbone(fed, asked.state.select(torch.tensor([q])))
            torch.testing.assert_close(scores[q, g], policy.rank_head(hidden[0, -1])[0], rtol=0, atol=1e-5)


def test_rank_scores_need_a_rank_head() -> None:
    policy = with_option()
    index, asked = open_video(policy)
    with pytest.raises(CheckpointError, match="has no rank head"):
        policy.rank_scores(index, asked, torch.zeros(4, 1, 1, dtype=torch.long))


def test_block_queries_come_from_one_pass_and_do_not_depend_on_the_picks() -> None:
    policy = with_option(frame_generation_method="block", query_frames=6)
    index, asked = open_video(policy)
    hidden, _ = policy.backbone(policy.value_embedding.expand(4, -1, -1), asked.state)
    logits = policy.query_head(hidden) @ index.keys[asked.rows].mT * F.softplus(policy.logit_scale)  # (Q, K, F)
    picks = pick_frames(policy, index, asked, 4, 3).picks
    expected = logits[:, None, :4].expand(-1, 3, -1, -1).clone()
    expected.masked_fill_(~index.valid[asked.rows][:, None, None], -torch.inf)
    for i in range(1, 4):
        expected[:, :, i].scatter_(-1, picks[..., :i], -torch.inf)
    found = policy.log_distributions(index, asked, picks)
    torch.testing.assert_close(found, expected.log_softmax(-1), rtol=0, atol=1e-5)
    assert index.values.shape == (2, 9, 0)


def test_a_block_policy_has_a_largest_budget() -> None:
    policy = with_option(frame_generation_method="block", query_frames=3)
    index, asked = open_video(policy)
    with pytest.raises(BudgetError, match="asked for 4 frames, but this policy picks in block with 3"):
        pick_frames(policy, index, asked, 4)
    with pytest.raises(BudgetError, match="block with 3"):
        policy.log_probs(index, asked, torch.arange(4).expand(4, 1, 4))


def test_spellings_and_defaults_of_options_are_those_of_the_published_code(tmp_path: Path) -> None:
    policy = with_option(value_head_norm="l2", score_head_norm="l2")
    policy.save_released(tmp_path)
    fields, weights = read(tmp_path)
    assert fields["value_head_norm"] == "norm"
    for spelling in (True, "True"):
        rewrite(tmp_path, fields | {"value_head_norm": spelling})
        assert_same_policy(FramePolicy.from_pretrained(tmp_path), policy)
    # A norm that is the text "False" is off, but the scale is there.
    weights["value_head_scale"] = torch.rand(16) + 0.5
    rewrite(tmp_path, fields | {"value_head_norm": "False"}, weights)
    scaled = FramePolicy.from_pretrained(tmp_path)
    assert scaled.config.value_head_norm == "none"
    features = tiny_features(scaled)
    hidden, _ = scaled.hidden_states(features)
    expected = F.linear(hidden, weights["value_head.weight"], weights["value_head.bias"]) * weights["value_head_scale"]
    torch.testing.assert_close(scaled.index(features).values, expected)
    scaled.save_released(tmp_path / "again")
    assert_same_policy(FramePolicy.from_pretrained(tmp_path / "again"), scaled)
    # A config that does not state the method is a block one.
    block = with_option(frame_generation_method="block", query_frames=4)
    block.save_released(tmp_path)
    fields, _ = read(tmp_path)
    unstated = {key: value for key, value in fields.items() if key not in {"frame_generation_method", "logit_scale_fn"}}
    rewrite(tmp_path, unstated)
    assert_same_policy(FramePolicy.from_pretrained(tmp_path), block)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("value_head_norm", "batchnorm"),
        ("score_head_norm", "layer"),
        ("logit_scale_type", "matrix"),
        ("logit_scale_fn", "square"),
        ("frame_generation_method", "diffusion"),
        ("attn_layer_idx", [1]),
        ("mm_spatial_pool_mode", "max"),
        ("mm_spatial_pool_stride", 3),
        ("mm_projector_type", "linear"),
        ("ssm_cfg", {"layer": "Mamba1"}),
        ("ssm_cfg", {}),
        ("ssm_cfg", {"layer": "Mamba2", "ngroups": 2}),
        ("ssm_cfg", {"layer": "Mamba2", "norm_before_gate": True}),
        ("ssm_cfg", {"layer": "Mamba2", "dt_limit": [0.0, 0.1]}),
    ],
)
def test_options_that_are_not_supported_are_refused(tmp_path: Path, option: str, value: Any) -> None:
    tiny_policy().save_released(tmp_path)
    rewrite(tmp_path, read(tmp_path)[0] | {option: value})
    with pytest.raises(CheckpointError, match=f"{option}.* is not supported, only"):
        FramePolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("changes", [{"merge": 2}, {"pool_stride": 1}])
def test_a_policy_that_the_published_code_cannot_run_is_not_written(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="bilinear pooling at stride 2 without merging alone"):
        tiny_policy(**changes).save_released(tmp_path)
    assert not list(tmp_path.iterdir())


# Containers


def shard(folder: Path, kind: str) -> list[Path]:
    """Replace model.safetensors by another container of the same weights; returns its files of weights."""
    _, weights = read(folder)
    (folder / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
        return [folder / "pytorch_model.bin"]
    stem, suffix = ("model", "safetensors") if kind == "sharded" else ("pytorch_model", "bin")
    names = sorted(weights)
    files: list[Path] = []
    places: dict[str, str] = {}
    for i in range(3):
        part = {name: weights[name] for name in names[i::3]}
        path = folder / f"{stem}-{i + 1:05}-of-00003.{suffix}"
        save_file(part, path) if suffix == "safetensors" else torch.save(part, path)
        files.append(path)
        places |= dict.fromkeys(part, path.name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    return files


@pytest.mark.parametrize("kind", ["sharded", "bin", "sharded bin"])
@pytest.mark.parametrize("model_type", ["refocus", "llava_mamba", "mamba2"])
def test_every_container_and_older_names_are_read(tmp_path: Path, kind: str, model_type: str) -> None:
    policy = with_option()
    policy.save_released(tmp_path)
    rewrite(tmp_path, read(tmp_path)[0] | {"model_type": model_type})
    shard(tmp_path, kind)
    assert_same_policy(FramePolicy.from_pretrained(tmp_path), policy)


@pytest.mark.parametrize("kind", ["sharded", "bin", "sharded bin"])
def test_missing_broken_and_odd_files_are_named(tmp_path: Path, kind: str) -> None:
    tiny_policy().save_released(tmp_path)
    files = shard(tmp_path, kind)
    whole = files[-1].read_bytes()
    files[-1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=f"{files[-1].name} is not readable"):
        FramePolicy.from_pretrained(tmp_path)
    files[-1].unlink()
    with pytest.raises(CheckpointError, match="holds no model.safetensors" if kind == "bin" else files[-1].name):
        FramePolicy.from_pretrained(tmp_path)


def test_a_shard_unlike_its_index_is_named(tmp_path: Path) -> None:
    tiny_policy().save_released(tmp_path)
    path = shard(tmp_path, "sharded")[0]
    weights = load_file(path)
    (lost, *_) = weights
    save_file({"stray": torch.zeros(1)} | {name: weights[name] for name in weights if name != lost}, path)
    with pytest.raises(CheckpointError, match=rf"index differ: 1 missing \({lost}\); 1 unexpected \(stray\)"):
        FramePolicy.from_pretrained(tmp_path)


def test_files_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    tiny_policy().save_released(tmp_path / "policy")
    shutil.move(tmp_path / "policy" / "model.safetensors", tmp_path / "other.safetensors")
    index = {"weight_map": {"logit_scale": "../other.safetensors"}}
    (tmp_path / "policy" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"names files that are not here: \.\./other"):
        FramePolicy.from_pretrained(tmp_path / "policy")


class Stranger:
    """Something that is not a tensor."""


@pytest.mark.parametrize("content", [{"weight": Stranger()}, {"epoch": 3}, [1, 2]])
def test_a_pickle_of_anything_but_weights_is_refused(tmp_path: Path, content: Any) -> None:
    tiny_policy().save_released(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"not readable as weights alone|expected tensors by name"):
        FramePolicy.from_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=r"not readable as weights alone|expected tensors by name"):
        FramePolicy.from_pretrained(tmp_path)


def test_missing_and_extra_weights_are_listed(tmp_path: Path) -> None:
    tiny_policy().save_released(tmp_path)
    fields, weights = read(tmp_path)
    del weights["key_head.weight"]
    weights["rank_head.weight"] = torch.zeros(1, 16)
    weights[TOWER + "encoder.extra"] = torch.zeros(1)
    rewrite(tmp_path, weights=weights)
    message = r"1 missing \(key_head.weight\); 2 unexpected \(rank_head.weight, vision.tower.encoder.extra\)"
    with pytest.raises(CheckpointError, match=message):
        FramePolicy.from_pretrained(tmp_path)
    del weights["backbone.embedding.weight"]
    rewrite(tmp_path, weights=weights)
    with pytest.raises(CheckpointError, match=r"needs 'backbone.embedding.weight', which is missing"):
        FramePolicy.from_pretrained(tmp_path)
    del fields["n_layer"]
    tiny_policy().save_released(tmp_path)
    rewrite(tmp_path, fields)
    with pytest.raises(CheckpointError, match=r"needs 'n_layer'"):
        FramePolicy.from_pretrained(tmp_path)


@pytest.mark.parametrize("row", [None, 21, -1, "3"])
def test_a_start_token_outside_the_vocabulary_is_refused(tmp_path: Path, row: Any) -> None:
    tiny_policy().save_released(tmp_path)
    rewrite(tmp_path, read(tmp_path)[0] | {"start_of_frame_token_id": row})
    with pytest.raises(CheckpointError, match=r"start_of_frame_token_id=.* the embedding has 21 rows"):
        FramePolicy.from_pretrained(tmp_path)


# Towers


def separate_tower(policy_folder: Path, tower: Path) -> None:
    """Move the tower of a released folder to a folder of its own, in SigLIP's format, with the layer that does not run."""
    fields, weights = read(policy_folder)
    inside = {name.removeprefix(TOWER): tensor for name, tensor in weights.items() if name.startswith(TOWER)}
    last = {
        n.replace("layers.1.", "layers.2."): t.clone() for n, t in inside.items() if n.startswith("encoder.layers.1.")
    }
    siglip = {f"vision_model.{name}": tensor for name, tensor in (inside | last).items()}
    tower.mkdir(parents=True)
    save_file(
        siglip | {"text_model.head.weight": torch.zeros(2), "logit_scale": torch.zeros(1)}, tower / "model.safetensors"
    )
    sizes = json.loads((policy_folder / "vision_tower" / "config.json").read_text())
    (tower / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": sizes}))
    shutil.rmtree(policy_folder / "vision_tower")
    rest = {name: tensor for name, tensor in weights.items() if not name.startswith(TOWER)}
    rewrite(policy_folder, fields | {"mm_vision_tower": "some/siglip"}, rest)


def test_a_tower_that_is_only_named_is_taken_from_its_own_folder_or_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = with_option()
    policy.save_released(tmp_path / "policy")
    separate_tower(tmp_path / "policy", tmp_path / "siglip")
    given = FramePolicy.from_pretrained(tmp_path / "policy", vision_tower=tmp_path / "siglip")
    assert_same_policy(given, policy)
    given.save_released(tmp_path / "again")
    assert read(tmp_path / "again")[1].keys() == read(tmp_path / "policy")[1].keys()

    asked_for = []

    def download(name: str, **_: Any) -> str:
        asked_for.append(name)
        return str(tmp_path / "siglip")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_same_policy(FramePolicy.from_pretrained(tmp_path / "policy"), policy)
    assert set(asked_for) == {"some/siglip"}

    def fail(name: str, **_: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"no vision tower: no folder 'some/siglip' .* give a local folder"):
        FramePolicy.from_pretrained(tmp_path / "policy")


def test_a_tower_inside_the_file_may_be_described_by_a_folder_or_by_sizes(tmp_path: Path) -> None:
    policy = with_option()
    policy.save_released(tmp_path / "policy")
    sizes = shutil.move(tmp_path / "policy" / "vision_tower", tmp_path / "sizes")
    rewrite(tmp_path / "policy", read(tmp_path / "policy")[0] | {"mm_vision_tower": "someone/tower"})
    with pytest.raises(CheckpointError, match="'someone/tower' is not known by name"):
        FramePolicy.from_pretrained(tmp_path / "policy")
    assert_same_policy(FramePolicy.from_pretrained(tmp_path / "policy", vision_tower=sizes), policy)
    assert_same_policy(FramePolicy.from_pretrained(tmp_path / "policy", vision=policy.config.vision), policy)
    described = json.loads((tmp_path / "sizes" / "config.json").read_text())
    for change, message in (
        ({"hidden_size": 16}, "has width 16"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
        ({"num_hidden_layers": 4}, r"missing \(vision.tower.encoder.layers.2"),
        ({"intermediate_size": 8}, "wrong shape"),
    ):
        (tmp_path / "sizes" / "config.json").write_text(json.dumps(described | change))
        with pytest.raises(CheckpointError, match=message):
            FramePolicy.from_pretrained(tmp_path / "policy", vision_tower=sizes)


def test_without_a_tokenizer_the_published_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = with_option()
    policy.save_released(tmp_path / "policy")
    (tmp_path / "neox").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.move(tmp_path / "policy" / name, tmp_path / "neox" / name)
    asked_for = []

    def download(name: str, **_: Any) -> str:
        asked_for.append(name)
        return str(tmp_path / "neox")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_same_policy(FramePolicy.from_pretrained(tmp_path / "policy"), policy)
    assert asked_for == ["EleutherAI/gpt-neox-20b"]


# Verification


def reference_folder(folder: Path, **options: Any) -> dict[str, Tensor]:
    """A released folder with inputs and the expected numbers, computed the plain way: no index, no carried state."""
    policy = with_option(**options)
    policy.save_released(folder)
    ids, pixels = [4, 2, -200, 7, 8, 1], torch.randn(5, 3, 16, 16).half()
    save_file({"input_ids": torch.tensor(ids), "pixel_values_16": pixels}, folder / "inputs.safetensors")
    large = pixels.float().repeat_interleave(2, 2).repeat_interleave(2, 3)
    picks = torch.tensor([[0, 4, 2], [3, 1, 0]])
    with torch.no_grad():
        frames = policy.vision.projector(policy.vision.features(large)).flatten(0, 1)  # (F·P, D)
        before, after = (
            policy.backbone.embedding(torch.tensor(ids[:2])),
            policy.backbone.embedding(torch.tensor(ids[3:])),
        )
        prompt = torch.cat([before, frames, after])
        tails = 2 + 4 * torch.arange(1, 6) - 1
        mask = torch.zeros(len(prompt), dtype=torch.bool)
        mask[tails] = True
        hidden, state = policy.backbone(prompt[None], policy.backbone.initial_state(1))
        keys = policy.key_head(hidden[0, tails])
        expected = {"visual_mask": mask, "tail_hidden": hidden[0, tails], "frame_keys": keys, "candidates": picks}
        expected["final_ssm_state_last_layer"] = state.layers[-1].ssm
        expected["final_conv_state_last_layer"] = state.layers[-1].conv
        rows, ranks = [], []
        for subset in picks:
            if policy.in_block:
                fed = policy.value_embedding[:3]
            else:
                values = policy.value_head(hidden[0, tails])
                if policy.config.value_head_norm != "none":
                    values = values * policy.value_head_scale
                expected["frame_values"] = values
                fed = torch.cat([policy.start_of_frame[None], values[subset]])
            run, _ = policy.backbone(fed[None], state)
            raw = policy.logit_scale
            scale = raw.exp() if policy.config.logit_scale_fn == "exp" else F.softplus(raw)
            logits = (policy.query_head(run[0, :3]) * scale) @ keys.mT
            for i in range(1, 3):
                logits[i, subset[:i]] = -torch.inf
            rows.append(logits.log_softmax(-1))
            if policy.config.use_rank_head:
                ranks.append(policy.rank_head(run[0, -1])[0])
        step = torch.stack(rows)
        chosen = step.gather(-1, picks[..., None]).squeeze(-1)
        expected["step_logp"] = step.clamp(min=-1e30)
        if policy.in_block:
            expected["selection_logp"] = chosen.sum(-1)
        else:
            expected |= {"selection_logp": chosen, "sampler_logp": chosen.clone()}
        if ranks:
            expected["rank_logits"] = torch.stack(ranks)
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")
    return expected


@pytest.mark.parametrize(
    "options",
    [
        {"d_model": 24, "n_layer": 3, "d_state": 4},
        {"use_rank_head": True, "value_head_norm": "rmsnorm", "score_head_norm": "l2"},
        {"logit_scale_type": "vector", "logit_scale_fn": "exp", "value_head_norm": "l2", "score_head_norm": "rmsnorm"},
        {"frame_generation_method": "block", "query_frames": 3, "logit_scale_type": "vector"},
    ],
    ids=str,
)
def test_other_sizes_and_options_are_verified(tmp_path: Path, options: dict[str, Any]) -> None:
    expected = reference_folder(tmp_path, **options)
    rows = verify_checkpoint(tmp_path)
    assert {row.name.split()[0] for row in rows} == expected.keys() - {"candidates"}
    assert not [row for row in rows if not row.ok]


def test_heads_that_no_file_tells_are_found_by_the_numbers(tmp_path: Path) -> None:
    reference_folder(tmp_path)
    shutil.rmtree(tmp_path / "vision_tower")
    rewrite(tmp_path, read(tmp_path)[0] | {"mm_vision_tower": "google/siglip-so400m-patch14-384"})
    assert all(row.ok for row in verify_checkpoint(tmp_path))


def test_wrong_unknown_and_misshapen_numbers_are_not_ok(tmp_path: Path) -> None:
    expected = reference_folder(tmp_path)
    expected["frame_keys"][2, 3] += 0.01
    expected["visual_mask"][0] = True
    expected["tail_hidden"] = expected["tail_hidden"][:3]
    expected["frame_values"][0, 0] = torch.nan
    save_file(expected | {"unheard_of": torch.zeros(1)}, tmp_path / "expected.safetensors")
    wrong = {row.name: row.error for row in verify_checkpoint(tmp_path) if not row.ok}
    assert wrong.pop("frame_keys (whole)") == pytest.approx(0.01, rel=1e-3)
    infinite = dict.fromkeys(("tail_hidden (whole)", "frame_values (whole)", "unheard_of (whole)"), float("inf"))
    assert wrong.items() >= ({"visual_mask (whole)": 1.0} | infinite).items()
    assert len(wrong) == 9


def test_a_folder_without_numbers_or_inputs_is_named(tmp_path: Path) -> None:
    reference_folder(tmp_path)
    inputs = load_file(tmp_path / "inputs.safetensors")
    for change, message in (
        ({"input_ids": torch.tensor([1, 2])}, "must hold -200 once"),
        ({"pixel_values_8": torch.zeros(5, 3, 8, 8)}, "expected one tensor pixel_values"),
    ):
        save_file(inputs | change, tmp_path / "inputs.safetensors")
        with pytest.raises(CheckpointError, match=message):
            verify_checkpoint(tmp_path)
    save_file({"pixel_values": torch.zeros(1)}, tmp_path / "inputs.safetensors")
    with pytest.raises(CheckpointError, match="expected a tensor input_ids, found pixel_values"):
        verify_checkpoint(tmp_path)
    (tmp_path / "expected.safetensors").write_text("broken")
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        verify_checkpoint(tmp_path)
    (tmp_path / "expected.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no expected\.safetensors"):
        verify_checkpoint(tmp_path)


def test_policies_saved_before_these_options_existed_still_load(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.save_pretrained(tmp_path)
    fields, _ = read(tmp_path)
    new = {"value_head_norm", "value_head_scale", "score_head_norm", "logit_scale_type", "logit_scale_fn"}
    new |= {"use_rank_head", "frame_generation_method", "query_frames"}
    assert new < fields.keys()
    rewrite(tmp_path, {key: value for key, value in fields.items() if key not in new})
    assert_same_policy(FramePolicy.from_pretrained(tmp_path), policy)
