"""`refocus haystack train-relevance`: from a haystack folder to a model folder with its card."""

import time
from pathlib import Path
from typing import Any

import torch

from refocus_video.data.examples import read_examples
from refocus_video.data.haystack.generate import read_worlds
from refocus_video.files import write_json, write_text
from refocus_video.reference.tiny import IMAGE_SIZE
from refocus_video.selectors.relevance import Relevance, quiet
from refocus_video.train.corpus import load_corpus
from refocus_video.train.tiny_relevance import TinyRelevanceConfig, new_relevance, retrieval, train_relevance
from refocus_video.types import Progress


def run(folder: Path, output: Path, config: TinyRelevanceConfig, progress: Progress) -> dict[str, Any]:
    """Train on the folder's ``train`` split, measure on ``validation``; write weights, tokenizer, scores and model card."""
    torch.set_num_threads(1)  # tiny matrices: a second thread only waits for the first
    videos = len(read_worlds(folder / "train-worlds.jsonl"))
    held_out = read_examples(folder / "validation.jsonl")
    with progress("decoding train", videos) as advance:
        corpus = load_corpus(folder, "train", (IMAGE_SIZE, IMAGE_SIZE), progress=advance)
    relevance = new_relevance(config)
    begun = time.process_time()
    with progress("training the relevance", config.steps) as advance:
        train_relevance(relevance, corpus, config, lambda loss: advance(note=f"{loss:.3f}"))
    cpu_seconds = round(time.process_time() - begun)
    with quiet():
        for part in (relevance.model, relevance.tokenizer, relevance.image_processor):
            part.save_pretrained(output)
    with progress("measuring", len({example.video for example in held_out})) as advance:
        rows = retrieval(Relevance.from_pretrained(output), held_out, advance)
    scores = {"rows": rows, "cpu_seconds": cpu_seconds, "config": config.model_dump(mode="json")}
    write_json(output / "scores.json", scores)
    write_text(output / "README.md", model_card(relevance, videos, scores))
    return scores


def model_card(relevance: Relevance, videos: int, scores: dict[str, Any]) -> str:
    """How the model was made and what it finds, in Markdown."""
    parameters = sum(p.numel() for p in relevance.model.parameters())
    table = "\n".join(
        f"| {row['kind']} | {row['n']} | {row['asked_card']:.3f} "
        f"| {'–' if row['second_card'] is None else format(row['second_card'], '.3f')} |"
        for row in scores["rows"]
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---
# haystack-tiny relevance

A SigLIP of {parameters / 1e6:.2f} M parameters, random at first and trained from nothing on {videos} generated haystack videos by
`refocus haystack train-relevance` ({scores["config"]["steps"]} steps, {scores["cpu_seconds"]} CPU-seconds of one thread).
It looks at {IMAGE_SIZE}×{IMAGE_SIZE} pixels and knows coloured cards with shapes, the questions about them, and nothing else.

**Use:** `relevance=haystack-tiny`, for trying selectors that score frames against the question on generated videos, and in tests.
**Do not use it** on real videos.

A question is right for the frames that show the card it names. A two-hop question names the card where the link begins; which
card it leads to no text says, and no score of a single frame can know.

Held-out videos of 64 candidates with 8 to 10 cards. "Asked card": the most relevant frame shows the card that the question names.
"Second card": the most relevant of the other frames shows the card that is linked to (one in seven to nine by chance among cards).

| question | n | asked card | second card |
|---|---|---|---|
{table}
"""
