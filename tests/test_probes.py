"""Evidence suppression, prefix noise and leave-one-frame-out influence: what they do to frames, and what they find."""

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from refocus_video.assets import HAYSTACK_TINY, locate
from refocus_video.cli.main import main
from refocus_video.config import SamplingConfig
from refocus_video.data.examples import read_examples
from refocus_video.errors import BudgetError, ConfigError, RefocusError, VideoError
from refocus_video.evaluate.answer import Answering
from refocus_video.evaluate.probe_plots import FIGURES
from refocus_video.evaluate.probes.base import Looked, Probe, Subject, look, run_probe
from refocus_video.evaluate.probes.influence import Influence
from refocus_video.evaluate.probes.prefix_noise import PrefixNoise
from refocus_video.evaluate.probes.suppression import Suppression, blurred, most_selected, segment_of, versions
from refocus_video.policy.policy import FramePolicy
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.types import Example

Row = dict[str, Any]
SUPPRESSION = Suppression(blurred=(0, 2, 32), budget=2, samples=16, draws=2)
PROBES: tuple[Probe, ...] = (SUPPRESSION, PrefixNoise(3, (0, 1, 3), 2), Influence(3))


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The bundled policy and model, which can do the task."""
    reference = HuggingFaceReference.from_pretrained(locate(HAYSTACK_TINY, "reference"), answer_mode="words")
    policy = FramePolicy.from_pretrained(locate(HAYSTACK_TINY, "policy"))
    return Subject(policy, Answering(reference, "tiny"), SamplingConfig(max_frames=64))


@pytest.fixture(scope="module")
def examples(haystack: Path) -> list[Example]:
    return read_examples(haystack / "validation.jsonl")


@pytest.fixture(scope="module")
def looked(subject: Subject, examples: list[Example]) -> Looked:
    return look(examples[0].video, subject)


def of_first_video(examples: list[Example]) -> list[Example]:
    return [example for example in examples if example.video == examples[0].video]


def at(rows: Sequence[Row], **point: Any) -> Row:
    (found,) = (row for row in rows if all(row[key] == value for key, value in point.items()))
    return found


# ------------------------------------------------------------------ suppression


def test_segments_are_ranked_by_how_often_they_are_selected() -> None:
    counts = np.array([0, 5, 2, 0, 9])
    orders = [most_selected(counts, np.random.default_rng(seed)).tolist() for seed in range(20)]
    assert all(order[:3] == [4, 1, 2] for order in orders)
    assert {tuple(order[3:]) for order in orders} == {(0, 3), (3, 0)}, "equals in random order"
    assert segment_of(np.arange(10), 10, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_shown_frames_of_suppressed_segments_are_the_blurred_ones() -> None:
    assert versions(np.array([0, 0, 1, 3]), np.array([0, 3])).tolist() == [1, 3, 4, 7]
    assert versions(np.array([0, 0, 1, 3]), np.array([], dtype=np.int64)).tolist() == [0, 2, 4, 6]


def test_blur_leaves_colours_and_no_shapes() -> None:
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = (200, 100, 0)
    found = blurred(stripes)
    assert found.shape == stripes.shape and found.dtype == np.uint8
    assert np.abs(found.mean((1, 2)) - stripes.mean((1, 2))).max() < 4
    middle = found[:, :, 8:24].astype(float)
    assert middle.std(axis=2).max() < 10 < stripes.astype(float).std(axis=2).max()


def test_blurring_selected_segments_costs_more_than_blurring_others(
    subject: Subject, examples: list[Example], tmp_path: Path
) -> None:
    probe = replace(SUPPRESSION, blurred=(0, 4, 32))
    rows = run_probe(probe, examples, subject, tmp_path, {})["rows"]
    assert at(rows, arm="top", k=0)["accuracy"] == at(rows, arm="random", k=0)["accuracy"] > 0.6
    assert at(rows, arm="top", k=32)["accuracy"] == at(rows, arm="random", k=32)["accuracy"]
    top, random = at(rows, arm="top", k=4), at(rows, arm="random", k=4)
    assert random["accuracy"] - top["accuracy"] == pytest.approx(top["gap"]) and top["gap"] > 0.1


def test_too_few_candidates_for_the_segments_are_told(looked: Looked, examples: list[Example]) -> None:
    with pytest.raises(BudgetError, match="64 candidate frames, too few for 100 segments"):
        replace(SUPPRESSION, segments=100).measure(looked, examples)


# ------------------------------------------------------------------ prefix noise


def test_prefix_noise_begins_at_the_policy_and_ends_at_chance(looked: Looked, examples: list[Example]) -> None:
    mine = of_first_video(examples)
    for rows in PrefixNoise(3, draws=3).measure(looked, mine):
        assert [row["m"] for row in rows] == [0, 1, 2, 3] * 2
        for m in (0, 3):
            first, last = at(rows, arm="first", m=m), at(rows, arm="last", m=m)
            assert (first["accuracy"], first["recall"]) == (last["accuracy"], last["recall"]), m
    undisturbed = looked.pick(mine, 3).picks[:, 0].numpy()
    found = looked.answers([(e, [picks]) for e, picks in zip(mine, undisturbed, strict=True)])
    for (row,), rows in zip(found, PrefixNoise(3, (0,), 1).measure(looked, mine), strict=True):
        assert at(rows, arm="first", m=0)["accuracy"] == row["correct"]


def test_forced_picks_are_kept_and_the_policy_goes_on(looked: Looked, examples: list[Example]) -> None:
    mine = of_first_video(examples)
    forced = np.tile(np.array([7, 40]), (len(mine), 2, 1))
    picks = looked.pick(mine, 4, 2, forced=forced).picks.numpy()
    assert (picks[..., :2] == forced).all()
    assert all(len(set(row)) == 4 for row in picks.reshape(-1, 4).tolist())
    assert np.array_equal(picks[:, 0], picks[:, 1])
    own = looked.pick(mine, 4).picks.numpy()
    assert np.array_equal(looked.pick(mine, 4, forced=own[..., :2]).picks.numpy(), own), (
        "its own first picks disturb nothing"
    )


# ------------------------------------------------------------------ influence


def test_influence_is_the_margin_lost(looked: Looked, examples: list[Example]) -> None:
    (example,) = of_first_video(examples)[:1]
    ((*rows,),) = Influence(3).measure(looked, [example])
    picks = looked.pick([example], 3).picks[0, 0].numpy()
    model = looked.subject.answering.model

    def margin(positions: Sequence[int]) -> float:
        features = model.encode(looked.candidates.frames)
        times = torch.from_numpy(looked.candidates.times)
        (scores,) = model.score([ScoreRequest(features, times, example.question, torch.tensor([sorted(positions)]))])
        others = [float(s) for place, s in enumerate(scores[0]) if place != example.answer]
        return float(scores[0, example.answer]) - max(others)

    for rank, row in enumerate(rows):
        kept = [int(pick) for place, pick in enumerate(picks) if place != rank]
        assert row["influence"] == pytest.approx(margin(picks.tolist()) - margin(kept), abs=1e-3)
        time = looked.candidates.times[picks[rank]]
        assert row["in_evidence"] == any(span.contains(float(time)) for span in example.evidence)


def test_frames_of_the_evidence_matter_and_others_do_not(
    subject: Subject, examples: list[Example], tmp_path: Path
) -> None:
    rows = run_probe(Influence(3), examples, subject, tmp_path, {})["rows"]
    inside, outside = (at(rows, group=name, rank=None) for name in ("in evidence", "outside evidence"))
    assert inside["influence"] > 2 > 0.5 > abs(outside["influence"])
    assert at(rows, group="all", rank=None)["n"] == 3 * len(examples)


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: str(probe.kind))
def test_a_cut_run_goes_on_with_the_same_result(
    probe: Probe, subject: Subject, examples: list[Example], tmp_path: Path
) -> None:
    whole = run_probe(probe, examples, subject, tmp_path, {"a": 1})
    journal = tmp_path / f"{probe.kind}.jsonl"
    text = journal.read_text("utf-8")
    journal.write_text(text[: int(len(text) * 0.7)], "utf-8")
    calls: list[int] = []
    assert run_probe(probe, examples, subject, tmp_path, {"a": 1}, lambda: calls.append(1)) == whole
    assert len(calls) == 2 and journal.read_text("utf-8") == text
    assert json.loads((tmp_path / f"{probe.kind}.json").read_text("utf-8")) == whole
    assert FIGURES[probe.kind](whole["rows"]) and (tmp_path / f"{probe.kind}.svg").is_file()
    with pytest.raises(ConfigError, match="other settings"):
        run_probe(probe, examples, subject, tmp_path, {"a": 2})


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: str(probe.kind))
def test_a_video_that_cannot_be_read_counts(
    probe: Probe, subject: Subject, examples: list[Example], tmp_path: Path
) -> None:
    mine = of_first_video(examples)[:2]
    lost = [replace(mine[0], id="lost", video=str(tmp_path / "gone.mp4"))]
    results = run_probe(probe, mine + lost, subject, tmp_path / "some", {})
    (failure,) = results["failures"]
    assert failure["questions"] == 1 and "no video file" in failure["reason"]
    assert results["rows"][0]["failed"] == 1 and results["rows"][0]["n"] == 3
    with pytest.raises(VideoError, match="no video file"):
        run_probe(probe, lost, subject, tmp_path / "none", {})
    assert not (tmp_path / "none" / f"{probe.kind}.jsonl").exists(), "running again looks again"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Suppression(blurred=(0, 33)), "between 0 and 32"),
        (lambda: PrefixNoise(4, (5,)), "between 0 and 4"),
        (lambda: Influence(1), "at least 2"),
    ],
)
def test_an_impossible_probe_is_refused(make: Any, said: str) -> None:
    with pytest.raises(RefocusError, match=said):
        make()


def refocus(*arguments: str | Path) -> tuple[int, str, str]:
    out, err, code = StringIO(), StringIO(), 0
    argv = ["refocus", *map(str, arguments)]
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def test_the_commands_print_and_write(haystack: Path, tmp_path: Path) -> None:
    how = (haystack / "validation.jsonl", "--config", "haystack", "--output", tmp_path, "-k", "2")
    code, out, err = refocus("probe", "influence", *how, "--json")
    assert code == 0, err
    assert json.loads(out)["kind"] == "influence"
    code, out, err = refocus("probe", "prefix-noise", *how, "--forced", "0,2", "--draws", "1")
    assert code == 0 and "first" in out and "figure:" in err
    code, out, err = refocus("probe", "suppression", *how, "--blurred", "0,4", "--samples", "4", "--draws", "1")
    assert code == 0 and "random" in out
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{kind}.{end}" for kind in FIGURES if kind != "needle" for end in ("json", "jsonl", "svg")
    }
    code, out, err = refocus("probe", "influence", *how, "--seed", "1")
    assert code == 2 and "other settings" in err and out == ""
