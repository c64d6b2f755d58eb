"""Similarity warm start: how far a small policy comes to pick what a teacher likes, on videos it was not taught on.

``python benchmarks/warm_start.py [--seeds 0 1 2] [--steps 300] [--teacher FOLDER]``

Without a teacher, one is made that shares the policy's tower and is random otherwise: what it likes means nothing, so it cannot be
guessed, only distilled. The control is the agreement with what the teacher likes for *another* question about the same video: a
policy that does not listen to the question agrees with both alike.
"""

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import SiglipConfig, SiglipModel

from machine import keep
from refocus_video.assets import locate
from refocus_video.cli.console import progress
from refocus_video.config import RunConfig
from refocus_video.data.evidence import by_video
from refocus_video.data.examples import read_examples
from refocus_video.data.haystack.generate import generate
from refocus_video.pipeline import warm_start
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.tower import tower_weights
from refocus_video.selectors.relevance import Relevance
from refocus_video.train.distillation import spearman, top_overlap
from refocus_video.train.features import features_folder, policy_viewer
from refocus_video.train.setup import load_tokenizer
from refocus_video.train.views import ViewStore
from refocus_video.train.warmstart import WarmStart, held_out_videos, teacher_viewer

POLICY = "{preset: lite-1x1, d_model: 96, n_layer: 4, d_state: 32, headdim: 16, vocab_size: 64, vision: VISION, pool_stride: 4}"
VISION = "{hidden_size: 64, intermediate_size: 192, num_hidden_layers: 3, num_attention_heads: 4, image_size: 32, patch_size: 8}"


def random_teacher(folder: Path, seed: int) -> Path:
    """A tiny SigLIP over the policy's own tower, random in everything else.

    Its texts are spread, so that the order of the frames depends on the question.
    """
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 192}
    text = {**sizes, "num_hidden_layers": 1, "vocab_size": 64, "max_position_embeddings": 24, "pad_token_id": 0}
    vision = {**sizes, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    model.vision_model.load_state_dict(tower_weights(Path(locate("haystack-tiny", "reference"))), strict=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "text_model" in name and weight.ndim == 2:
                weight.mul_(3)
    model.save_pretrained(folder)
    load_tokenizer(locate("haystack-tiny", "reference")).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    pictures = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}, "image_mean": half,
                "image_std": half, "do_resize": True, "do_rescale": True, "do_normalize": True}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures), encoding="utf-8")
    return folder


@torch.no_grad()
def other_question(folder: Path, data: Path, teacher: str, config: RunConfig) -> dict[str, float]:
    """Agreement with the teacher's view of the video's next question, on held-out videos.

    ``teacher_spearman`` is that of the teacher itself: how little its order of the frames depends on the question.
    """
    policy, model, examples = (
        FramePolicy.from_pretrained(folder / "policy"),
        Relevance.from_pretrained(teacher),
        read_examples(data),
    )
    seen = ViewStore(features_folder(), config.sampling, policy_viewer(policy))
    liked = ViewStore(features_folder(), config.sampling, teacher_viewer(model, seen.viewer.image_size))
    trainer = WarmStart(policy, model, seen, liked, examples, config.warm, folder / "control")
    groups, found = by_video(examples), []
    held, _ = held_out_videos(list(groups), config.warm.held_out, config.warm.seed)
    for video in held:
        lesson = trainer.lesson([video], [groups[video]])
        first = torch.zeros(len(lesson.logits), 1, 1, dtype=torch.long)
        scores = policy.log_distributions(lesson.index, lesson.asked, first)[:, 0, 0]
        for one, other in pairwise(range(len(scores))):
            pair = scores[one : one + 1], lesson.logits[other : other + 1]
            itself = float(spearman(lesson.logits[one : one + 1], pair[1]))
            found.append((float(spearman(*pair)), float(top_overlap(*pair, config.warm.budget)), itself))
    names = ("spearman", "top_overlap", "teacher_spearman")
    return {name: statistics.mean(row[i] for row in found) for i, name in enumerate(names)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--videos", type=int, default=120)
    parser.add_argument("--teacher")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            data = generate(folder / "data", {"train": given.videos}, seed=seed)["train"]
            teacher = given.teacher or str(random_teacher(folder / "teacher", seed))
            config = RunConfig.load(
                None,
                (
                    f"policy={POLICY.replace('VISION', VISION)}", "start.tower=haystack-tiny", "start.tokenizer=haystack-tiny",
                    "policy.score_head_norm=rmsnorm", "policy.attention_scaling=true", "sampling.fps=2",
                    f"train.seed={seed}", f"warm.seed={seed}", f"warm.teacher={teacher}", f"warm.max_steps={given.steps}",
                    "warm.learning_rate=2e-3", "warm.budget=4", "warm.held_out=0.25", "warm.videos_per_step=4",
                ),
            )  # fmt: skip
            report = warm_start(data, folder / "warm", config, progress)
            control = other_question(folder / "warm", data, teacher, config)
            rows.append({"seed": seed, "before": report["before"], "after": report["after"], "other_question": control})
    means = {
        moment: {key: round(statistics.mean(row[moment][key] for row in rows), 3) for key in rows[0][moment]}
        for moment in ("before", "after", "other_question")
    }
    keep("warm_start", {"settings": vars(given), "mean": means, "rows": rows})


if __name__ == "__main__":
    main()
