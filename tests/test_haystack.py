"""The haystack: what is asked can be answered, what is drawn can be seen, what is generated can be generated again."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refocus_video.data.examples import read_examples
from refocus_video.data.haystack import render
from refocus_video.data.haystack.generate import SPLITS, examples_of, generate, read_worlds
from refocus_video.data.haystack.world import (
    COLOR_NAMES,
    COLORS,
    GLYPHS,
    HOPS,
    Event,
    Probe,
    World,
    answer_word,
    ask,
    belief,
    linked,
    needed_events,
    sample_world,
    vocabulary,
)
from refocus_video.errors import DataError
from refocus_video.types import Example
from refocus_video.video.candidates import load_candidates
from refocus_video.video.reader import VideoReader
from refocus_video.video.sampling import candidate_indices


def _worlds(count: int = 300) -> Iterator[World]:
    for seed in range(count):
        yield sample_world(f"train-{seed:06d}", np.random.default_rng(seed), num_frames=128, fps=8)


# ------------------------------------------------------------------ the world


def test_every_world_holds_eight_to_ten_cards_that_do_not_touch() -> None:
    counts = set()
    for world in _worlds():
        events = world.events
        counts.add(len(events))
        assert len({e.fill for e in events}) == len({e.glyph for e in events}) == len(events)
        assert events[0].start >= 0
        assert events[-1].end <= world.num_frames
        for event in events:
            assert 3 <= event.end - event.start <= 6
            assert {event.row, event.column} <= {0, 1, 2}
        for before, after in itertools.pairwise(events):
            assert after.start - before.end >= 2
    assert counts == {8, 9, 10}


def test_every_border_shows_the_fill_of_another_card() -> None:
    for world in _worlds():
        for i, event in enumerate(world.events):
            other = linked(world, i)
            assert other != i
            assert world.events[other].fill == event.border


def test_every_card_is_on_at_least_one_candidate_frame() -> None:
    indices = candidate_indices(128, 16.0)
    assert len(indices) == 64
    for world in _worlds():
        seen = {world.at(int(i)) for i in indices}
        assert seen - {-1} == set(range(len(world.events)))


def test_moments_are_spread_over_the_whole_video() -> None:
    middles = np.array([(e.start + e.end) / 2 for world in _worlds() for e in world.events]) / 128
    shares = np.histogram(middles, bins=8, range=(0, 1))[0] / len(middles)
    assert shares.min() > 0.08
    assert shares.max() < 0.17


def _by_hand(world: World, question: str) -> str:
    """The answer, found from the words of the question alone."""
    cards = list(world.events)
    word = next(w.strip("?") for w in question.split() if w.strip("?") in (*COLOR_NAMES, *GLYPHS))
    if "linked" in question:
        first = next(c for c in cards if c.fill == word)
        return next(c for c in cards if c.fill == first.border).glyph
    if word in GLYPHS:
        return next(c for c in cards if c.glyph == word).fill
    return next(c for c in cards if c.fill == word).glyph


def test_questions_are_answered_right_and_lures_are_on_other_cards() -> None:
    places = []
    for seed, world in enumerate(_worlds(60)):
        rng = np.random.default_rng(seed)
        for kind in HOPS:
            for event in range(len(world.events)):
                question, answer = ask(world, Probe(kind, event), rng)
                assert question.options[answer] == _by_hand(world, question.text)
                assert len(set(question.options)) == 4
                shown = {e.fill if kind == "shape-to-color" else e.glyph for e in world.events}
                assert set(question.options) <= shown
                places.append(answer)
    shares = np.bincount(places, minlength=4) / len(places)
    assert np.abs(shares - 0.25).max() < 0.05


def test_belief_is_certain_with_all_evidence_and_uniform_without() -> None:
    for world in _worlds(20):
        everything = frozenset(range(len(world.events)))
        for kind in HOPS:
            words = vocabulary(kind)
            for event in range(len(world.events)):
                probe = Probe(kind, event)
                needed = frozenset(needed_events(world, probe))
                assert len(needed) == (2 if kind == "linked-shape" else 1)
                for seen in (needed, everything):
                    sure = belief(world, probe, seen)
                    assert words[int(sure.argmax())] == answer_word(world, probe)
                    assert sure.max() == sure.sum() == 1
                for lost in needed:
                    unsure = belief(world, probe, everything - {lost})
                    assert unsure == pytest.approx(np.full(len(words), 0.1))


# ------------------------------------------------------------------ the pictures


def test_all_glyphs_look_different_and_keep_their_looks_when_halved() -> None:
    masks = [render.glyph_mask(name) for name in GLYPHS]
    assert set(render._BITMAPS) == set(GLYPHS)
    for i, one in enumerate(masks):
        assert one.shape == (render.GLYPH, render.GLYPH)
        for other in masks[:i]:
            assert (one != other).mean() > 0.1


def test_a_card_shows_border_fill_and_glyph() -> None:
    picture = render.card(Event("red", "cross", "blue", 0, 3, 0, 0))
    assert tuple(picture[0, 0]) == tuple(picture[render.BORDER - 1, 20]) == COLORS["blue"]
    assert tuple(picture[render.BORDER, render.BORDER]) == COLORS["red"]
    ink = (picture == render.INK).all(-1)
    assert ink.sum() == render.glyph_mask("cross").sum()
    assert ink[render.CARD // 2, render.CARD // 2]


@pytest.fixture(scope="module")
def world(haystack: Path) -> World:
    return read_worlds(haystack / "train-worlds.jsonl")[1]


def test_cards_survive_the_encoder(haystack: Path, world: World) -> None:
    with VideoReader(haystack / "train" / "000001.mp4") as reader:
        assert (reader.info.num_frames, reader.info.duration_s, reader.info.codec) == (128, 16.0, "h264")
        pictures = reader.read(np.arange(128), (render.SIZE, render.SIZE)).astype(float)
        assert reader.times.tolist() == [i / 8 for i in range(128)]
    for event in world.events:
        for frame in range(event.start, event.end):
            top, left = render.STEP * event.row, render.STEP * event.column
            shown = pictures[frame, top : top + render.CARD, left : left + render.CARD]
            rim, fill = shown[1 : render.BORDER - 1].reshape(-1, 3), shown[render.BORDER + 1 : render.BORDER + 5, 8:40]
            # Nearer to its own colour than to any other, by the mean over a patch.
            assert _nearest(rim.mean(0)) == event.border
            assert _nearest(fill.mean((0, 1))) == event.fill
            assert np.abs(fill.mean((0, 1)) - COLORS[event.fill]).max() < 30
            edge = (render.CARD - render.GLYPH) // 2
            middle = shown[edge:-edge, edge:-edge].sum(-1)
            mask = render.glyph_mask(event.glyph)
            assert middle[mask].mean() < 150 < middle[~mask].mean() - 60


def _nearest(color: Any) -> str:
    return min(COLORS, key=lambda name: float(np.abs(color - COLORS[name]).sum()))


def test_evidence_holds_exactly_the_candidates_that_show_the_card(haystack: Path) -> None:
    for split in ("train", "validation"):
        worlds = {w.name: w for w in read_worlds(haystack / f"{split}-worlds.jsonl")}
        for example in read_examples(haystack / f"{split}.jsonl")[::3]:
            candidates = load_candidates(example.video, (32, 32))
            shown = [worlds[f"{split}-{Path(example.video).stem}"].at(int(i)) for i in candidates.frame_indices]
            kind, start = example.id.split("-", 2)[2].rsplit("-", 1)
            needed = needed_events(worlds[example.id[: -len(f"-{kind}-{start}")]], Probe(kind, int(start)))
            for span, event in zip(example.evidence, needed, strict=True):
                assert [span.contains(t) for t in candidates.times] == [s == event for s in shown]


# ------------------------------------------------------------------ the data set


def test_two_questions_of_every_kind_about_different_cards(haystack: Path) -> None:
    examples = read_examples(haystack / "train.jsonl")
    assert len(examples) == 4 * 6
    assert len({(e.video, e.metadata["kind"], e.question.text) for e in examples}) == len(examples)
    for example in examples:
        assert HOPS[example.metadata["kind"]] == example.question_type
        assert len(example.evidence) == (2 if example.question_type == "two-hop" else 1)
        assert Path(example.video).is_file()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_bytes_and_a_larger_set_begins_with_the_smaller(
    haystack: Path, tmp_path: Path
) -> None:
    generate(tmp_path, {"train": 2}, seed=0, workers=0)
    small, large = _contents(tmp_path), _contents(haystack)
    assert small["train/000000.mp4"] == large["train/000000.mp4"]
    assert small["train/000001.mp4"] == large["train/000001.mp4"]
    for name in ("train.jsonl", "train-worlds.jsonl"):
        assert large[name].startswith(small[name])
    assert not any(name.startswith("test") for name in large)  # only what was asked for


def test_splits_and_seeds_differ() -> None:
    drawn = [
        sample_world("x", np.random.default_rng([seed, split, number]), num_frames=128, fps=8)
        for seed in range(2)
        for split in range(len(SPLITS))
        for number in range(20)
    ]
    assert len({world.events for world in drawn}) == len(drawn)


def test_questions_differ_between_splits_of_the_same_number(haystack: Path) -> None:
    train, validation = (read_worlds(haystack / f"{split}-worlds.jsonl")[0] for split in ("train", "validation"))
    assert train.events != validation.events
    twin = World("validation-000000", train.events, train.num_frames, train.fps)
    assert _asked(examples_of(twin, haystack, 0)) != _asked(examples_of(train, haystack, 0))


def _asked(examples: list[Example]) -> list[tuple[str, ...]]:
    return [(e.question.text, *e.question.options) for e in examples]


def test_an_interrupted_generation_goes_on_where_it_stopped(haystack: Path, tmp_path: Path) -> None:
    generate(tmp_path, {"train": 3}, seed=0, workers=0)
    whole = _contents(tmp_path)
    kept = tmp_path / "train" / "000000.mp4"
    before = kept.stat().st_mtime_ns
    (tmp_path / "train" / "000001.mp4").unlink()
    (tmp_path / "train.jsonl").unlink()
    told: list[str] = []
    generate(tmp_path, {"train": 3}, seed=0, workers=0, progress=told.append)
    assert _contents(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before
    assert told == ["train"] * 3


def test_worker_processes_change_nothing(haystack: Path, tmp_path: Path) -> None:
    generate(tmp_path, {"validation": 2}, seed=0, workers=2)
    found, expected = _contents(tmp_path), _contents(haystack)
    assert found == {k: v for k, v in expected.items() if k.startswith("validation") or k == "manifest.json"}


def _plain(rng: np.random.Generator, num_frames: int) -> Any:
    return np.full((num_frames, render.SIZE, render.SIZE, 3), 90, np.uint8)


@pytest.mark.parametrize("other", [{"seed": 1}, {"backdrop": _plain}])
def test_a_folder_of_another_recipe_is_left_alone(haystack: Path, other: dict[str, Any]) -> None:
    before = _contents(haystack)
    with pytest.raises(DataError, match="holds another data set"):
        generate(haystack, {"train": 1}, workers=0, **other)
    assert _contents(haystack) == before


@pytest.mark.parametrize("sizes", [{"training": 3}, {"train": 0}, {"train": 2, "test": -1}])
def test_impossible_sizes_are_refused_before_anything_is_written(tmp_path: Path, sizes: dict[str, int]) -> None:
    with pytest.raises(DataError, match="positive numbers of train, validation, test"):
        generate(tmp_path / "new", sizes, workers=0)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_worlds_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refocus haystack generate"):
        read_worlds(tmp_path / "train-worlds.jsonl")
