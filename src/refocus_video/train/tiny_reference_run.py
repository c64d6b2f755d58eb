"""``refocus haystack train-reference``: from a haystack folder to a model folder with its card."""

import time
from pathlib import Path
from typing import Any

import torch

from refocus_video.data.haystack.generate import read_worlds
from refocus_video.files import write_json, write_text
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.reference.tiny import IMAGE_SIZE
from refocus_video.train.calibration import calibration
from refocus_video.train.corpus import Corpus, load_corpus
from refocus_video.train.tiny_reference import (
    TinyReferenceConfig,
    encode_corpus,
    new_reference,
    train_reference,
)
from refocus_video.types import Progress


def run(folder: Path, output: Path, config: TinyReferenceConfig, progress: Progress) -> dict[str, Any]:
    """Train on the folder's ``train`` split, measure on ``validation``; write weights, tokenizer, scores and model card."""
    torch.set_num_threads(1)  # tiny matrices: a second thread only waits for the first
    corpora = {split: _load(folder, split, progress) for split in ("train", "validation")}
    reference = new_reference(config)
    begun = time.process_time()
    total = config.seeing_steps + config.letters_steps + config.answering_steps
    with progress("training the reference", total) as advance:
        train_reference(reference, corpora["train"], config, lambda stage, loss: advance(note=f"{stage} {loss:.2f}"))
    cpu_seconds = round(time.process_time() - begun)
    held_out = corpora["validation"]
    rows = calibration(reference, held_out, encode_corpus(reference, held_out), questions=config.measured_questions)
    scores = {"rows": rows, "cpu_seconds": cpu_seconds, "config": config.model_dump(mode="json")}
    reference.model.save_pretrained(output)
    reference.tokenizer.save_pretrained(output)
    write_json(output / "scores.json", scores)
    write_text(output / "README.md", model_card(reference, len(corpora["train"].worlds), scores))
    return scores


def _load(folder: Path, split: str, progress: Progress) -> Corpus:
    with progress(f"decoding {split}", len(read_worlds(folder / f"{split}-worlds.jsonl"))) as advance:
        return load_corpus(folder, split, (IMAGE_SIZE, IMAGE_SIZE), progress=advance)


def model_card(reference: HuggingFaceReference, videos: int, scores: dict[str, Any]) -> str:
    """How the model was made and what it scores, in Markdown."""
    config = scores["config"]
    parameters = sum(p.numel() for p in reference.model.parameters())
    table = "\n".join(
        f"| {row['answer_mode']} | {row['kind']} | {row['frames']} | {row['evidence']} | {row['accuracy']:.2f} "
        f"| {row['probability']:.2f} | {row['margin_reward']:+.2f} |"
        for row in scores["rows"]
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---
# haystack-tiny reference model

A LLaVA-OneVision (SigLIP tower, MLP projector, Qwen2 language model) of {parameters / 1e6:.2f} M parameters, random at first
and trained from nothing on {videos} generated haystack videos by `refocus haystack train-reference`, in {scores["cpu_seconds"]}
CPU-seconds of one thread. It answers three kinds of questions about coloured cards with shapes, on frames of
{IMAGE_SIZE}×{IMAGE_SIZE} pixels. It knows nothing else.

**Use:** the frozen reward model of `refocus demo` and of the tests. **Do not use it** on real videos.

Stages: the vision tower learns to name the card on a frame ({config["seeing_steps"]} steps) and is then frozen; the language
model learns letters from text ({config["letters_steps"]} steps), then questions on 1 to 8 frames
({config["answering_steps"]} steps). The target is certainty where all evidence is in sight and no preference otherwise.

Held-out videos, {scores["rows"][0]["n"]} questions a row, four options. "Probability" is that of the right option among the
four (0.25 = no preference); "margin reward" is the paper's reward, tanh of half the margin against the best other option
(0 = no preference).

| answer by | question | frames | evidence shown, filler | accuracy | probability | margin reward |
|---|---|---|---|---|---|---|
{table}
"""
