"""The tiny image–text model: what it is trained on, that training finds cards, and that the bundled one does."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refocus_video.assets import locate
from refocus_video.cli.main import main
from refocus_video.data.examples import read_examples
from refocus_video.data.haystack.generate import generate
from refocus_video.data.haystack.world import COLOR_NAMES, GLYPHS
from refocus_video.reference.tiny import IMAGE_SIZE
from refocus_video.selectors.relevance import Relevance
from refocus_video.train.corpus import load_corpus
from refocus_video.train.tiny_relevance import (
    FILL,
    TinyRelevanceConfig,
    new_relevance,
    retrieval,
    sigmoid_loss,
    texts,
    train_relevance,
)

SMALL: dict[str, Any] = {"steps": 60, "batch_size": 96, "learning_rate": 3e-3, "width": 32, "layers": 1}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("haystack")
    generate(folder, {"train": 12, "validation": 10}, seed=17, workers=0)
    return folder


def test_every_text_names_one_word_and_questions_of_both_hops_are_about_the_card_they_name() -> None:
    asked = texts()
    assert len({text.words for text in asked}) == len(asked) == 5 * 10
    for text in asked:
        word = (COLOR_NAMES if text.column == FILL else GLYPHS)[text.value]
        assert f" {word}" in text.words
    assert sum("linked from" in text.words and text.column == FILL for text in asked) == 10
    tokenizer = new_relevance(TinyRelevanceConfig(**SMALL)).tokenizer
    assert tokenizer.unk_token_id not in {i for text in asked for i in tokenizer(text.words)["input_ids"]}


def test_the_loss_judges_every_pair_by_itself() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 0.0]])
    matches = torch.tensor([[True, False], [False, True]])
    pairs = [[math.log1p(math.exp(-2.0)), math.log1p(math.exp(-1.0))], [math.log1p(math.exp(0.5)), math.log(2.0)]]
    assert float(sigmoid_loss(logits, matches)) == pytest.approx(np.sum(pairs) / 2)


def test_the_command_writes_a_model_that_finds_cards_better_than_before(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "model"
    settings = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    command = ["refocus", "haystack", "train-relevance", str(videos), "--output", str(output), *settings, "--json"]
    monkeypatch.setattr("sys.argv", command)
    main()
    scores = json.loads(capsys.readouterr().out)
    assert scores == json.loads((output / "scores.json").read_text(encoding="utf-8"))
    held_out = read_examples(videos / "validation.jsonl")
    assert retrieval(Relevance.from_pretrained(output), held_out) == scores["rows"]
    before = retrieval(new_relevance(TinyRelevanceConfig(**SMALL)), held_out)
    for untrained, trained in zip(before, scores["rows"], strict=True):
        assert untrained["kind"] == trained["kind"] and trained["n"] == 20
    assert sum(row["asked_card"] for row in scores["rows"]) > 0.3 + sum(row["asked_card"] for row in before)
    assert "12 generated haystack videos" in (output / "README.md").read_text(encoding="utf-8")


def test_the_same_seed_trains_the_same_model(videos: Path) -> None:
    corpus = load_corpus(videos, "train", (IMAGE_SIZE, IMAGE_SIZE), limit=2, workers=1)
    config = TinyRelevanceConfig(**SMALL | {"steps": 3})
    losses: list[list[float]] = [[], []]
    for seen in losses:
        train_relevance(new_relevance(config), corpus, config, seen.append)
    assert losses[0] == losses[1] and len(losses[0]) == 3 and losses[0][-1] < losses[0][0]


def test_the_bundled_model_finds_the_card_that_is_named_and_not_where_its_link_leads(videos: Path) -> None:
    bundled = Relevance.from_pretrained(locate("haystack-tiny", "relevance"))
    assert sum(p.numel() for p in bundled.model.parameters()) < 1e6
    for row in retrieval(bundled, read_examples(videos / "validation.jsonl")):
        assert row["asked_card"] >= 0.95, row
        assert row["second_card"] is None or row["second_card"] <= 0.5, row
