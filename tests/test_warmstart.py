"""Similarity warm start: the loss is what it says, and a policy comes to pick what an image–text model likes on new questions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SiglipConfig, SiglipModel

from refocus_video.assets import locate
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.data.haystack.generate import generate
from refocus_video.errors import CheckpointError
from refocus_video.policy.tower import tower_weights
from refocus_video.selectors.relevance import Relevance
from refocus_video.train.distillation import distillation_loss, draw_subsets, spearman, top_overlap
from refocus_video.train.setup import load_tokenizer
from refocus_video.train.warmstart import WarmStart, held_out_videos
from test_cli import complaint, finished, refocus
from test_fresh import TINY

# ------------------------------------------------------------------ the mathematics


def random_case(questions: int = 3, frames: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher's logits with one padded frame, picks, and the policy's log-probs at them."""
    torch.manual_seed(0)
    logits = torch.randn(questions, frames)
    logits[1, -1] = -torch.inf
    picks = draw_subsets(logits, 4, 2)
    policy = torch.randn(questions, 2, 4, frames, dtype=torch.float64)
    policy[1, ..., -1] = -torch.inf
    for k in range(4):
        policy[:, :, k].scatter_(-1, picks[:, :, :k], -torch.inf)
    return logits, picks, policy.requires_grad_()


def test_the_loss_is_the_mean_divergence_step_by_step() -> None:
    logits, picks, raw = random_case()
    expected = []
    for q in range(3):
        for g in range(2):
            for k in range(4):
                left = [f for f in range(7) if f not in picks[q, g, :k].tolist() and logits[q, f] > -torch.inf]
                p = logits[q, left].double().softmax(-1)
                expected.append((p * (p.log() - raw[q, g, k, left].log_softmax(-1))).sum())
    loss = distillation_loss(raw.log_softmax(-1), logits, picks)
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(loss, raw)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_a_policy_that_is_the_teacher_has_no_loss() -> None:
    logits, picks, raw = random_case()
    same = torch.where(raw.detach() == -torch.inf, raw.detach(), logits[:, None, None].double())
    assert distillation_loss(same.log_softmax(-1), logits, picks).abs() < 1e-6


def test_the_last_frame_left_gives_no_loss_and_no_nan() -> None:
    picks = torch.tensor([[[1, 0]]])
    log_probs = torch.tensor([[[[-0.7, -0.7], [0.0, -torch.inf]]]], requires_grad=True)
    loss = distillation_loss(log_probs, torch.zeros(1, 2), picks)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()


def test_subsets_are_drawn_like_the_teacher_picks_without_repetition() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -torch.inf]])
    picks = draw_subsets(logits, 2, 40_000, torch.Generator().manual_seed(0))[0]  # (G, 2)
    assert (picks[:, 0] != picks[:, 1]).all()
    assert picks.max() == 2  # never the frame that does not exist
    p = logits[0, :3].softmax(-1)
    for first in range(3):
        for second in set(range(3)) - {first}:
            share = ((picks[:, 0] == first) & (picks[:, 1] == second)).float().mean()
            assert share.item() == pytest.approx(float(p[first] * p[second] / (1 - p[first])), abs=0.01)
    assert torch.equal(*(draw_subsets(logits, 3, 5, torch.Generator().manual_seed(1)) for _ in "12"))


def test_agreement_measures_know_their_extremes() -> None:
    scores = torch.tensor([[0.1, 3.0, -1.0, 2.0, 0.5]])
    torch.testing.assert_close(spearman(scores, scores.exp()), torch.ones(1))
    torch.testing.assert_close(spearman(scores, -scores), -torch.ones(1))
    assert top_overlap(scores, scores, 2).item() == 1
    assert top_overlap(scores, -scores, 2).item() == 0
    assert top_overlap(scores, torch.tensor([[0.0, 9.0, 8.0, 0.0, 0.0]]), 2).item() == 0.5


def test_held_out_videos_are_apart_and_some_are_left() -> None:
    videos = [f"{i}.mp4" for i in range(10)]
    held, practised = held_out_videos(videos, 0.3, 0)
    assert (len(held), sorted([*held, *practised])) == (3, videos)
    assert held_out_videos(videos, 0.3, 0) == (held, practised)
    assert held_out_videos(["a"], 0.9, 0) == ([], ["a"])


# ------------------------------------------------------------------ the teacher


def write_teacher(folder: Path, *, spread: float = 3.0, vocab: int = 64) -> Path:
    """A small SigLIP with the bundled tower, a random text tower and pooling head, and the bundled tokenizer.

    ``spread`` makes texts differ; at 1 the order of the frames would hardly depend on the question.
    """
    torch.manual_seed(7)
    sizes = {"hidden_size": 64, "num_attention_heads": 4}
    model = SiglipModel(
        SiglipConfig(
            text_config={**sizes, "vocab_size": vocab, "num_hidden_layers": 1, "intermediate_size": 64,
                         "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None},
            vision_config={**sizes, "num_hidden_layers": 4, "intermediate_size": 192, "image_size": 32, "patch_size": 8},
        )
    )  # fmt: skip
    tower = tower_weights(Path(locate("haystack-tiny", "reference")))
    wrong = model.vision_model.load_state_dict(tower, strict=False)
    assert not wrong.unexpected_keys
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "text_model" in name and weight.ndim == 2:
                weight.mul_(spread)
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(locate("haystack-tiny", "reference"))
    tokenizer.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    pictures = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": True,
                "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": half, "image_std": half,
                "resample": 3}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"))


def test_what_is_no_teacher_is_refused(
    teacher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="image–text model"):
        Relevance.from_pretrained(locate("haystack-tiny", "reference"))
    with pytest.raises(CheckpointError, match="no image–text model at"):
        Relevance.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"run `hf download some/siglip`"):
        Relevance.from_pretrained("some/siglip")
    with pytest.raises(CheckpointError, match=r"the text tower knows 8; use the tokenizer that comes with"):
        Relevance.from_pretrained(write_teacher(tmp_path / "few", vocab=8))
    broken = write_teacher(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot load an image–text model"):
        Relevance.from_pretrained(broken)
    towerless = write_teacher(tmp_path / "towerless")
    weights = load_file(towerless / "model.safetensors")
    save_file({n: p for n, p in weights.items() if "text_model" not in n}, towerless / "model.safetensors")
    capfd.readouterr()
    with pytest.raises(CheckpointError, match=r"the weights do not fit its config.json: \d+ missing .*text_model"):
        Relevance.from_pretrained(towerless)
    assert "MISSING" not in capfd.readouterr().err  # the table that transformers prints


# ------------------------------------------------------------------ the command

SETTINGS = (
    "--set", "sampling.fps=2", "--set", "warm.budget=4", "--set", "warm.learning_rate=3e-3",
    "--set", "warm.max_steps=50",
    "--set", "warm.warmup_steps=5", "--set", "warm.videos_per_step=4", "--set", "warm.held_out=0.25",
    "--set", "warm.save_steps=25", "--set", "warm.temperature=0.02",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate(folder, {"train": 12}, seed=0, workers=0)
    return folder / "train.jsonl"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("start") / "policy"
    small = ("d_model=64", "n_layer=2", "d_state=16", "headdim=16", "score_head_norm=rmsnorm", "attention_scaling=true")
    changes = [part for change in small for part in ("--set", f"policy.{change}")]
    finished("init", "--preset", "lite-1x1", *TINY, *changes, "--output", output)
    return output


def warm(data: Path, start: Path, teacher: Path, output: Path, *more: str) -> tuple[Any, ...]:
    return ("warm-start", data, "--start", start, "--teacher", teacher, "--output", output, *SETTINGS, *more)


@pytest.fixture(scope="module")
def whole(data: Path, start: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("warm") / "whole"
    finished(*warm(data, start, teacher, output))
    return output


def test_the_policy_comes_to_agree_with_the_teacher_on_videos_it_has_not_seen(whole: Path) -> None:
    report = json.loads((whole / "warm_start.json").read_text())
    before, after = report["before"], report["after"]
    assert (report["held_out_videos"], report["failures"], report["asked"]) == (3, {}, report["examples"])
    assert after["top_overlap"] > before["top_overlap"] + 0.2
    assert after["spearman"] > before["spearman"] + 0.3
    assert after["divergence"] < 0.5 * before["divergence"]
    losses = [json.loads(line)["loss"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 50
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_an_interrupted_warm_start_is_the_uninterrupted_one(
    whole: Path, data: Path, start: Path, teacher: Path, tmp_path: Path
) -> None:
    step = WarmStart.step

    def stopping(self: WarmStart) -> Any:
        if self.next_step == 30:
            raise KeyboardInterrupt
        return step(self)

    arguments = warm(data, start, teacher, tmp_path / "cut")
    with patch.object(WarmStart, "step", stopping):
        assert refocus(*arguments).code == 130
    with patch("refocus_video.train.views.load_candidates", side_effect=AssertionError("looked at a video again")):
        finished(*arguments)
    for name in ("metrics.jsonl", "policy/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (whole / name).read_bytes(), name
    mine, theirs = (json.loads((folder / "warm_start.json").read_text()) for folder in (tmp_path / "cut", whole))
    assert mine | {"policy": ""} == theirs | {"policy": ""}
    line = complaint(refocus(*arguments, "--set", "warm.budget=3"))
    assert "a run with other settings (budget)" in line


def test_training_starts_from_a_warm_policy(whole: Path, data: Path, tmp_path: Path) -> None:
    from test_cli import TINY as RUN

    finished("train", data, *RUN, "--set", f"start.policy={whole / 'policy'}", "--set", "train.max_steps=1",
             "--output", tmp_path / "train")  # fmt: skip
    saved = json.loads((tmp_path / "train" / "config.json").read_text())
    assert (saved["policy"]["d_model"], saved["policy"]["n_layer"]) == (64, 2)  # the policy's own, not the file's


def test_a_warm_start_that_cannot_be_is_one_line(
    data: Path, start: Path, teacher: Path, tmp_path: Path, haystack: Path
) -> None:
    line = complaint(refocus(*warm(data, start, Path(locate("haystack-tiny", "reference")), tmp_path / "a")))
    assert "image–text model" in line
    few: Sequence[Any] = read_examples(data)[:1]
    write_examples(tmp_path / "few.jsonl", list(few))
    outcome = refocus(*warm(tmp_path / "few.jsonl", start, teacher, tmp_path / "b"), "--set", "warm.budget=500")
    assert outcome.code == 2
    assert "candidate frames, too few" in outcome.err.splitlines()[-1]
