"""`refocus haystack train-reference` from a folder of videos to a model that loads, with its card."""

import json
from pathlib import Path

import pytest

from refocus_video.cli.main import main
from refocus_video.data.haystack.generate import generate
from refocus_video.errors import DataError
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.train.corpus import load_corpus


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("haystack")
    generate(folder, {"train": 4, "validation": 2}, seed=3, workers=0)
    return folder


def test_the_command_writes_a_model_that_loads_and_a_card_that_says_what_it_scores(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ["--set", "seeing_steps=2", "--set", "letters_steps=2", "--set", "answering_steps=2"]
    small = [
        *steps,
        "--set",
        "batch_size=8",
        "--set",
        "width=32",
        "--set",
        "layers=2",
        "--set",
        "measured_questions=10",
    ]
    command = [
        "refocus",
        "haystack",
        "train-reference",
        str(videos),
        "--output",
        str(tmp_path / "model"),
        *small,
        "--json",
    ]
    monkeypatch.setattr("sys.argv", command)
    main()
    scores = json.loads(capsys.readouterr().out)
    assert scores == json.loads((tmp_path / "model" / "scores.json").read_text(encoding="utf-8"))
    combinations = {(row["answer_mode"], row["kind"], row["frames"], row["evidence"]) for row in scores["rows"]}
    assert len(combinations) == len(scores["rows"]) == 2 * 3 * (4 + 4 + 8)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "4 generated haystack videos" in card and card.count("\n| words |") == 48
    assert HuggingFaceReference.from_pretrained(tmp_path / "model", answer_mode="words").image_size == (32, 32)


def test_the_corpus_knows_which_card_each_candidate_shows(videos: Path) -> None:
    corpus = load_corpus(videos, "train", (32, 32), workers=1)
    assert corpus.frames.shape == (4, 64, 32, 32, 3)
    for world, shown in zip(corpus.worlds, corpus.shown, strict=True):
        assert set(shown[shown >= 0]) == set(range(len(world.events)))
        assert shown.tolist() == [world.at(2 * position) for position in range(63)] + [world.at(127)]


def test_a_folder_without_a_haystack_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refocus haystack generate"):
        load_corpus(tmp_path, "train", (32, 32))
