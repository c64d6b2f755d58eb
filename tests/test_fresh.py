"""Fresh policies: presets have the published sizes, pretrained backbones compute what they did, and heads know nothing yet."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import Mamba2Config, Mamba2ForCausalLM, SiglipConfig, SiglipModel

from refocus_video.assets import locate
from refocus_video.config import PRESETS, PolicyConfig, RunConfig
from refocus_video.errors import CheckpointError, ConfigError
from refocus_video.policy.fresh import BareBackbone, fresh_policy, read_backbone
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.vision import pool
from refocus_video.train.setup import load_tokenizer, new_policy
from test_cli import complaint, finished, refocus
from tiny_policy import tiny_config, tiny_policy, tiny_tokenizer

TINY = ("--vision", "haystack-tiny", "--tokenizer", "haystack-tiny")
SMALL = ("--set", "policy.d_model=64", "--set", "policy.n_layer=2", "--set", "policy.d_state=16")


def preset(name: str, **changes: Any) -> PolicyConfig:
    return PolicyConfig.parse({"preset": name, **changes}, "settings")


# ------------------------------------------------------------------ presets


@pytest.mark.parametrize(
    ("name", "backbone"), [("0.3b", 368_346_624), ("1.3b", 1_343_757_312), ("2.7b", 2_702_599_680)]
)
def test_the_presets_have_the_sizes_of_the_published_backbones(name: str, backbone: int) -> None:
    config = preset(name)
    with torch.device("meta"):
        policy = FramePolicy(config, tiny_tokenizer())
    assert sum(weight.numel() for weight in policy.backbone.parameters()) == backbone
    width, inner, state, heads = config.d_model, 2 * config.d_model, 128, 2 * config.d_model // 64
    channels = inner + 2 * state
    layer = width * (inner + channels + heads + 1) + channels * 5 + 3 * heads + inner + inner * width
    assert backbone == 50288 * width + config.n_layer * layer + width
    assert config.tokens_per_frame == 196


def test_the_default_policy_is_the_main_preset() -> None:
    assert preset("1.3b") == PolicyConfig()


def test_the_lite_presets_differ_in_tokens_a_frame_alone() -> None:
    tokens = {name: preset(name).tokens_per_frame for name in PRESETS if name.startswith("lite-")}
    assert tokens == {"lite-14x14": 196, "lite-7x7": 49, "lite-4x4": 16, "lite-2x2": 4, "lite-1x1": 1}
    assert preset("lite") == preset("lite-2x2")
    sizes = set()
    for name in tokens:
        with torch.device("meta"):
            policy = FramePolicy(preset(name), tiny_tokenizer())
        sizes.add(sum(weight.numel() for weight in policy.parameters() if weight.requires_grad))
    (size,) = sizes
    assert size < 50e6


def test_what_is_stated_beside_a_preset_goes_before_it() -> None:
    config = preset("lite", d_model=256, vision={"image_size": 256})
    assert (config.d_model, config.n_layer, config.vision.image_size, config.vision.hidden_size) == (256, 12, 256, 768)
    assert RunConfig.load(None, ("policy.preset=2.7b", "policy.n_layer=3")).policy == preset("2.7b", n_layer=3)
    assert "preset" not in config.model_dump()
    with pytest.raises(ConfigError, match=r"setting 'policy': .*no preset 'huge'; known: 0\.3b, 1\.3b"):
        RunConfig.load(None, ("policy.preset=huge",))


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_a_token_is_the_mean_of_all_its_patches(stride: int) -> None:
    grid = torch.zeros(1, 1, 6, 6)
    grid[..., 0, 0] = 1.0  # in the corner, where bilinear pooling to few tokens does not look
    pooled = pool(grid, stride, "mean")
    assert pooled.shape[-1] == -(-6 // stride)
    assert pooled[..., 0, 0] > 0
    torch.testing.assert_close(pool(grid, 6, "mean").squeeze(), grid.mean())
    assert pool(grid, 6).sum() == 0


# ------------------------------------------------------------------ backbones


def tower_folder(folder: Path) -> Path:
    vision = tiny_config().vision
    sizes = vision.model_dump(exclude={"pixel_mean", "pixel_std"}) | {"num_hidden_layers": 3}
    torch.manual_seed(3)
    SiglipModel(SiglipConfig(text_config={"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8}, vision_config=sizes)).save_pretrained(folder)  # fmt: skip
    return folder


def write_mamba_ssm(folder: Path, source: FramePolicy, *, projector: bool = False) -> None:
    """A policy's backbone as mamba-ssm writes one."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: part for name, part in source.state_dict().items() if name.startswith("backbone.")}
    weights["lm_head.weight"] = weights["backbone.embedding.weight"].clone()
    if projector:
        parts = source.vision.projector.state_dict()
        weights |= {f"mm_model.mm_projector.{name}": part for name, part in parts.items()}
    torch.save(weights, folder / "pytorch_model.bin")
    config = source.config
    fields = {
        "d_model": config.d_model, "n_layer": config.n_layer, "vocab_size": config.vocab_size, "rms_norm": True,
        "ssm_cfg": {"layer": "Mamba2", "d_state": config.d_state, "headdim": config.headdim},
        "attn_layer_idx": [], "residual_in_fp32": True, "tie_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields))


def test_a_backbone_of_transformers_computes_the_same_here(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=20, hidden_size=16, num_hidden_layers=2, state_size=8, head_dim=8, num_heads=4, n_groups=1,
            chunk_size=4, conv_kernel=4, tie_word_embeddings=True, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "backbone")
    found = read_backbone(tmp_path / "backbone")
    assert found.sizes == {
        "d_model": 16, "n_layer": 2, "d_state": 8, "headdim": 8, "expand": 2, "d_conv": 4, "vocab_size": 20
    }  # fmt: skip
    policy = tiny_policy()
    policy.backbone.load_state_dict({name.removeprefix("backbone."): part for name, part in found.weights.items()})
    tokens = torch.randint(0, 20, (2, 11))
    with torch.no_grad():
        expected = theirs.backbone(tokens).last_hidden_state
        hidden, _ = policy.backbone(policy.backbone.embedding(tokens), policy.backbone.initial_state(2))
    torch.testing.assert_close(hidden, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projector", [False, True])
def test_a_backbone_is_taken_over_but_for_what_reinforcement_learns(tmp_path: Path, projector: bool) -> None:
    source = tiny_policy()
    with torch.no_grad():
        for weight in source.backbone.parameters():
            weight.add_(0.1)
    write_mamba_ssm(tmp_path / "backbone", source, projector=projector)
    tower = tower_folder(tmp_path / "tower")
    found = read_backbone(tmp_path / "backbone")
    assert found.unused == ("lm_head.weight",)
    policy = fresh_policy(tiny_config(), tiny_tokenizer(), tower=tower, backbone=found, seed=5)
    same = {n for n, part in policy.state_dict().items() if torch.equal(part, source.state_dict()[n])}
    backbone = {name for name in policy.state_dict() if name.startswith("backbone.")}
    assert {name for name in backbone if name not in same} >= {
        "backbone.norm_f.weight", "backbone.layers.1.mixer.in_proj.weight"
    }  # fmt: skip
    assert {name for name in backbone if not name.startswith(("backbone.layers.1.", "backbone.norm_f"))} <= same
    assert torch.equal(policy.backbone.norm_f.weight, torch.ones(16))
    assert ("vision.projector.0.weight" in same) == projector
    torch.testing.assert_close(policy.query_head.weight @ policy.query_head.weight.mT, 0.01 * torch.eye(16))
    again = fresh_policy(tiny_config(), tiny_tokenizer(), tower=tower, backbone=found, seed=5).state_dict()
    assert all(torch.equal(part, again[name]) for name, part in policy.state_dict().items())


def test_a_backbone_that_does_not_fit_is_named(tmp_path: Path) -> None:
    write_mamba_ssm(tmp_path, tiny_policy())
    tower, found = tower_folder(tmp_path / "tower"), read_backbone(tmp_path)
    with pytest.raises(CheckpointError, match=r"has d_model 16 instead of 32; choose the preset"):
        fresh_policy(tiny_config(d_model=32), tiny_tokenizer(), tower=tower, backbone=found)
    fewer = BareBackbone(found.sizes, dict(list(found.weights.items())[1:]), (), "there")
    with pytest.raises(CheckpointError, match=r"there: the weights do not fit .* 1 missing"):
        fresh_policy(tiny_config(), tiny_tokenizer(), tower=tower, backbone=fewer)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "llama", "hidden_size": 8}, "no Mamba-2 backbone .model_type 'llama'"),
        ({"model_type": "mamba2", "hidden_size": 8, "num_heads": 2, "head_dim": 8, "n_groups": 8}, "n_groups=8 is not"),
        ({"d_model": 8, "n_layer": 1, "ssm_cfg": {}}, "ssm_cfg.layer='Mamba1' is not supported"),
        ({"d_model": 8, "n_layer": 1, "ssm_cfg": {"layer": "Mamba2"}}, "holds no backbone.embedding.weight"),
    ],
)
def test_what_is_no_backbone_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(fields))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=said):
        read_backbone(tmp_path)


def test_a_run_can_give_an_earlier_policy_new_heads(tmp_path: Path) -> None:
    earlier = tiny_policy()
    earlier.save_pretrained(tmp_path)
    start = f"start.policy={tmp_path}"
    kept = new_policy(RunConfig.load(None, (start,))).state_dict()
    fresh = new_policy(RunConfig.load(None, (start, "start.new_heads=true"))).state_dict()
    again = new_policy(RunConfig.load(None, (start, "start.new_heads=true"))).state_dict()
    changed = {name for name, part in fresh.items() if not torch.equal(part, kept[name])}
    assert {"key_head.weight", "value_head.weight", "start_of_frame"} <= changed
    assert not [n for n in changed if n.startswith(("vision.", "backbone.embedding", "backbone.layers.0."))]
    assert all(torch.equal(part, again[name]) for name, part in fresh.items())


# ------------------------------------------------------------------ the command


def test_init_makes_a_policy_that_training_can_start_from(tmp_path: Path) -> None:
    output = tmp_path / "policy"
    report = finished("init", "--preset", "lite-1x1", *TINY, *SMALL, "--output", output, "--json").json
    policy = FramePolicy.from_pretrained(output)
    assert report["tokens_per_frame"] == policy.config.tokens_per_frame == 1
    assert sum(report["parameters"].values()) == sum(weight.numel() for weight in policy.parameters())
    assert policy.config.vision.hidden_size == 64  # the tower's own sizes, not the preset's
    assert policy.config.vocab_size == 64  # the tokenizer's 60 or so tokens, rounded up
    assert new_policy(RunConfig.load(None, (f"start.policy={output}",))).config == policy.config
    same = ("init", "--preset", "lite-1x1", *TINY, *SMALL, "--output")
    finished(*same, tmp_path / "again")
    finished(*same, tmp_path / "other", "--seed", "1")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("policy", "again", "other")]
    assert weights[0] == weights[1] != weights[2]
    assert "holds a model already; choose another --output" in complaint(refocus(*same, output))


def test_init_takes_the_backbone_s_vocabulary_and_lists_what_is_not_used(tmp_path: Path) -> None:
    source = tiny_policy(vocab_size=96)
    write_mamba_ssm(tmp_path / "backbone", source)
    sizes = [f"policy.{key}={getattr(source.config, key)}" for key in ("d_model", "n_layer", "d_state", "headdim")]
    outcome = finished(
        "init", *TINY, *(part for size in sizes for part in ("--set", size)),
        "--backbone", tmp_path / "backbone", "--output", tmp_path / "policy",
    )  # fmt: skip
    assert "not used of" in outcome.err
    assert "lm_head.weight" in outcome.err
    policy = FramePolicy.from_pretrained(tmp_path / "policy")
    assert policy.config.vocab_size == 96
    assert torch.equal(policy.backbone.embedding.weight, source.backbone.embedding.weight)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "huge"), "no preset 'huge'; known: 0.3b"),
        (("--vision", "nowhere/at-all/here"), "no vision tower at nowhere/at-all/here; give a folder"),
        (("--backbone", "./nothing"), "no backbone at ./nothing"),
        (("--set", "policy.vocab_size=4"), "the tokenizer gives token"),
    ],
)
def test_init_without_its_parts_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = refocus("init", *TINY, *SMALL, *arguments, "--output", tmp_path / "policy")
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err.splitlines()[-1]
    assert not (tmp_path / "policy").exists()


def test_a_tokenizer_that_the_hub_does_not_give_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"no tokenizer: .*give a local folder, or run `hf download a/b`"):
        load_tokenizer("a/b")
    assert load_tokenizer(locate("haystack-tiny", "reference")).encode("red")
