"""What every selector must do, whatever the scores: a budget is met exactly, nothing repeats, a seed gives the same frames."""

import re
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from refocus_video.errors import BudgetError, ConfigError
from refocus_video.registry import Registry
from refocus_video.selectors.base import Selector, to_selection
from refocus_video.selectors.known import PACKAGES, SELECTORS, Parts, SelectorConfig, make_selector, makeable
from refocus_video.selectors.mixed import covered
from refocus_video.selectors.scenes import Scenes, scene_positions
from refocus_video.selectors.scored import Scored, Seen
from refocus_video.selectors.uniform import Uniform
from refocus_video.types import Candidates, Question, Timeline
from scorers import SHAPES, Given, check_positions, seen, shots, timeline
from tiny_policy import tiny_policy

SIZES = (1, 2, 7, 40, 130)
QUESTIONS = [Question("What is on the table?", ("a cup", "a plate")), Question("Who comes in?")]
COMPOSED: dict[str, dict[str, Any]] = {
    "mixed": {"selector": "bolt", "uniform_share": 0.5},
    "covered": {"selector": {"name": "topk", "settings": {}}, "stretches": 4},
    "gate": {"selector": "aks", "max_uniform": 10, "flat": 0.01},
}
MADE = [name for name in SELECTORS.paths if name != "policy"]


def _cuts(video: str, threshold: float) -> list[float]:
    return [0.0, 1.1, 1.2, 6.0, 999.0]


def _made(name: str, shown: Seen, /, **settings: Any) -> Selector:
    if name == "scenes":
        return Scenes(find=_cuts)
    return make_selector(name, Parts(scorer=Given(shown)), **(COMPOSED.get(name, {}) | settings))


def _open(selector: Selector, count: int) -> Any:
    opened: Any = selector
    return opened.open(timeline(count))


SCORED = [name for name in MADE if isinstance(_made(name, seen(np.zeros(3))), Scored)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCORED)
def test_a_position_function_gives_as_many_frames_as_there_are_up_to_the_budget(name: str, shape: str) -> None:
    """Here F < K too: min(K, F) positions."""
    for count in SIZES:
        shown = seen(SHAPES[shape](count))
        before = shown.scores.copy(), shown.features.copy()
        selector: Any = _made(name, shown)
        for budget in range(1, 65):
            check_positions(selector.choose(shown, budget, np.random.default_rng(0)), count, budget)
        assert np.array_equal(shown.scores, before[0], equal_nan=True) and np.array_equal(shown.features, before[1])


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("features", ["all the same", "zeros", "NaN", "some NaN", "repeated"])
def test_features_that_say_nothing_do_not_change_that(name: str, features: str) -> None:
    for count in (1, 3, 40, 90):
        made = shots(count)
        match features:
            case "all the same":
                made[:] = made[0]
            case "zeros":
                made[:] = 0
            case "NaN":
                made[:] = np.nan
            case "some NaN":
                made[::4] = np.nan
            case _:
                made = made[np.arange(count) // 5]
        shown = seen(SHAPES["noise"](count), made)
        selector: Any = _made(name, shown)
        for budget in (1, 2, 5, 8, 17, 64):
            check_positions(selector.choose(shown, budget, np.random.default_rng(0)), count, budget)


@pytest.mark.parametrize("name", MADE)
def test_an_opened_video_gives_exactly_the_budget_and_refuses_what_it_cannot(name: str) -> None:
    for shape in ("noise", "all NaN"):
        for count in (1, 9, 70):
            opened = _open(_made(name, seen(SHAPES[shape](count))), count)
            for budget in range(1, min(64, count) + 1):
                for pick, question in zip(opened.pick(QUESTIONS, budget), QUESTIONS, strict=True):
                    selection = to_selection(pick, timeline(count), question, name)
                    check_positions(selection.positions, count, budget)
            for impossible in (0, count + 1):
                with pytest.raises(BudgetError, match=f"asked for {impossible} frames"):
                    opened.pick(QUESTIONS, impossible)


@pytest.mark.parametrize("name", MADE)
def test_the_same_seed_gives_the_same_frames_alone_and_in_a_batch(name: str) -> None:
    shown = seen(SHAPES["noise"](200))
    opened = _open(_made(name, shown), 200)
    together = [pick.positions.tolist() for pick in opened.pick(QUESTIONS, 8)]
    assert together == [pick.positions.tolist() for pick in _open(_made(name, shown), 200).pick(QUESTIONS, 8)]
    assert together == [opened.pick([question], 8)[0].positions.tolist() for question in QUESTIONS]


@pytest.mark.parametrize("name", ["random", "qframe", "adaq"])
def test_another_seed_or_question_draws_other_frames(name: str) -> None:
    shown = seen(SHAPES["noise"](200))
    drawn = [_open(_made(name, shown, seed=seed), 200).pick(QUESTIONS, 8) for seed in (0, 1)]
    assert len({tuple(pick.positions.tolist()) for picks in drawn for pick in picks}) == 4


@pytest.mark.parametrize("name", MADE)
def test_a_hundred_thousand_candidates_take_seconds(name: str) -> None:
    count = 100_000
    shown = seen(SHAPES["noise"](count))
    selector = _made(name, shown)
    begun = time.perf_counter()
    opened = _open(selector, count)
    pick = opened.pick(QUESTIONS[:1], 64)[0]
    assert time.perf_counter() - begun < 20  # measured: below half a second
    check_positions(np.sort(pick.positions), count, 64)


def test_the_learned_policy_keeps_the_contract() -> None:
    policy = tiny_policy()
    side = policy.config.vision.image_size
    frames = np.random.default_rng(0).integers(0, 255, (9, side, side, 3)).astype(np.uint8)
    candidates = Candidates("video.mp4", frames, np.arange(9) * 6, np.arange(9) / 4)
    opened = make_selector("policy", Parts(policy=policy)).open(candidates)
    for budget in range(1, 10):
        for pick, question in zip(opened.pick(QUESTIONS, budget), QUESTIONS, strict=True):
            check_positions(to_selection(pick, candidates, question, "policy").positions, 9, budget)
    with pytest.raises(BudgetError):
        opened.pick(QUESTIONS, 10)


def test_flat_relevance_gives_uniform_frames() -> None:
    even = _open(Uniform(), 200).pick(QUESTIONS[:1], 8)[0].positions.tolist()
    for name in ("topk", "topk-gap", "bolt", "aks", "adaq", "slice", "gate"):
        for shape in ("constant", "zeros", "all NaN"):
            picks = _open(_made(name, seen(SHAPES[shape](200))), 200).pick(QUESTIONS[:1], 8)
            assert picks[0].positions.tolist() == even, (name, shape)


@pytest.mark.parametrize("name", [name for name in SCORED if name not in ("maxinfo", "qframe", "mdp3")])
def test_the_most_relevant_frame_is_among_those_chosen(name: str) -> None:
    """Of Q-Frame that is only likely; mDP3 and MaxInfo look at features."""
    scores = SHAPES["noise"](120)
    scores[77] = 0.5
    picks = _open(_made(name, seen(scores)), 120).pick(QUESTIONS[:1], 8)
    assert 77 in picks[0].positions


def test_the_four_uniforms_are_four() -> None:
    shown = seen(np.zeros(100))
    found = {
        name: _open(_made(name, shown), 100).pick(QUESTIONS[:1], 4)[0].positions.tolist()
        for name in ("uniform", "uniform-u1", "uniform-u3", "uniform-u4", "stride")
    }
    assert found == {
        "uniform": [12, 37, 62, 87],
        "uniform-u1": [0, 33, 66, 99],
        "uniform-u3": [0, 32, 64, 96],
        "uniform-u4": [0, 33, 66, 99],
        "stride": [0, 25, 50, 75],
    }
    assert _open(_made("uniform-u1", shown), 100).pick(QUESTIONS[:1], 8)[0].positions.tolist()[1] == 14
    assert _open(_made("uniform-u4", shown), 100).pick(QUESTIONS[:1], 8)[0].positions.tolist()[2] == 28


def test_top_k_keeps_a_gap_as_long_as_it_can() -> None:
    scores = SHAPES["peak"](400)
    wide = _open(_made("topk-gap", seen(scores), gap_s=2.0), 400).pick(QUESTIONS[:1], 10)[0].positions
    assert np.diff(wide).min() >= 8  # four candidates a second
    close = _open(_made("topk-gap", seen(scores), gap_s=60.0), 400).pick(QUESTIONS[:1], 10)[0].positions
    assert int(scores.argmax()) in close and len(close) == 10


def test_scenes_give_their_middles() -> None:
    times = np.arange(100) / 10
    assert scene_positions([2.0, 8.0], times, 3).tolist() == [10, 50, 90]
    assert scene_positions([2.0, 8.0], times, 1).tolist() == [50]
    assert scene_positions([2.0, 8.0], times, 5).tolist() == [10, 30, 50, 70, 90]
    assert scene_positions([], times, 4).tolist() == [12, 37, 62, 87]
    assert scene_positions([-1.0, 0.0, 50.0], times, 4).tolist() == [12, 37, 62, 87]
    for cuts in ([], [0.05] * 4, list(times), [3.3, 3.4]):
        for budget in range(1, 65):
            check_positions(scene_positions(cuts, times[:37], budget), 37, budget)


def test_a_mixture_is_part_uniform() -> None:
    scores = SHAPES["peak"](400)
    positions = _open(_made("mixed", seen(scores), selector="topk", uniform_share=0.5), 400).pick(QUESTIONS[:1], 8)[0]
    peak = int(scores.argmax())
    assert {peak - 1, peak, peak + 1} < set(positions.positions.tolist())
    assert set(np.sort(positions.positions)[[0, -1]].tolist()) == {50, 350}
    for share, name in ((0.0, "topk"), (1.0, "uniform")):
        mixed = _made("mixed", seen(scores), selector="topk", uniform_share=share)
        alone = _open(_made(name, seen(scores)), 400).pick(QUESTIONS[:1], 8)[0]
        assert _open(mixed, 400).pick(QUESTIONS[:1], 8)[0].positions.tolist() == alone.positions.tolist()


def test_a_coverage_floor_leaves_no_stretch_empty() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(1, 60))
        budget, stretches = int(rng.integers(1, count + 1)), int(rng.integers(1, 20))
        picks = rng.choice(count, budget, replace=False)
        found = covered(picks, count, stretches)
        check_positions(np.sort(found), count, budget)
        parts = min(stretches, budget)
        edges = [-(-part * count // parts) for part in range(parts + 1)]
        held = [any(low <= pick < high for pick in found) for low, high in pairwise(edges)]
        assert all(held)
        if len({sum(edge <= pick for edge in edges) for pick in picks}) == parts:
            assert found.tolist() == picks.tolist()  # nothing to do


def test_a_gate_asks_only_where_choosing_can_help() -> None:
    scores = SHAPES["noise"](200)
    scores[[20, 21]] = 0.5
    chosen, even = [20, 21], _open(Uniform(), 200).pick(QUESTIONS[:1], 2)[0].positions.tolist()
    for settings, expected in (
        ({"max_uniform": 0}, chosen),
        ({"max_uniform": 200}, even),
        ({"max_uniform": 0, "max_uniform_s": 60.0}, even),
        ({"max_uniform": 0, "flat": 0.2}, chosen),
        ({"max_uniform": 0, "flat": 0.3}, even),
    ):
        gate = _made("gate", seen(scores), **({"selector": "topk", "flat": 0.0} | settings))
        assert _open(gate, 200).pick(QUESTIONS, 2)[1].positions.tolist() == expected, settings


def test_names_of_composed_selectors_say_what_they_are_made_of() -> None:
    assert _made("mixed", seen(np.zeros(3)), selector={"name": "gate", "settings": {"selector": "mmr"}}).name == (
        "mixed(gate(mmr))"
    )
    assert _made("bolt", seen(np.zeros(3)), name="bolt-2.5", alpha=2.5).name == "bolt-2.5"


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("bold", {}, "no selectors called 'bold' .did you mean 'bolt'.*; known: uniform, uniform-u1, .*, policy"),
        ("bolt", {"alhpa": 2}, "selector 'bolt': unknown setting 'alhpa'.*; known ones here: .*alpha"),
        ("bolt", {"alpha": 0}, "selector 'bolt': setting 'alpha': .*greater than 0, found 0"),
        ("bolt", {"grid": "coarse"}, "selector 'bolt': setting 'grid': .*'midpoints'"),
        ("bolt", {"scorer": 3}, "unknown setting 'scorer'"),
        ("scenes", {"find": "os:system"}, "unknown setting 'find'; known ones here: threshold, name"),
        ("uniform", {"seed": 3}, "selector 'uniform': unknown setting 'seed'; known ones here: name"),
        ("policy", {}, "selector 'policy' needs a policy"),
        ("mixed", {}, "selector 'mixed' needs another selector"),
        ("mixed", {"selector": {"nam": "topk"}}, "selector 'mixed', setting 'selector': .*unknown setting 'nam'"),
        ("mixed", {"selector": "topk", "uniform_share": 2}, "less than or equal to 1, found 2"),
    ],
)
def test_a_wrong_selector_or_setting_is_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_selector(name, Parts(scorer=Given(seen(np.zeros(3)))), **settings)


def test_relevance_is_asked_for_where_it_is_missing() -> None:
    with pytest.raises(ConfigError, match="selector 'bolt' needs relevance scores; name an image–text model"):
        make_selector("bolt")
    with pytest.raises(ConfigError, match="needs scores"):
        make_selector("gate", selector="uniform", flat=0.1)
    assert make_selector("gate", selector="uniform").name == "gate(uniform)"


def test_a_selector_of_another_package_is_made_the_same_way() -> None:
    path = f"{__name__}:First"
    config = SelectorConfig.parse({"name": path, "settings": {"skip": 2}}, "test")
    opened: Any = make_selector(config.name, **config.settings)
    assert opened.skip == 2
    with pytest.raises(ConfigError, match="unknown setting 'jump'; known ones here: skip"):
        make_selector(path, jump=1)
    with pytest.raises(ConfigError, match="setting 'skip'"):
        make_selector(path)


@pytest.mark.parametrize(
    ("parts", "inner"), [((), None), (("scorer",), "topk"), (("policy",), "policy"), (("scorer", "policy"), "policy")]
)
def test_every_selector_is_made_of_what_there_is_or_says_what_it_lacks(parts: tuple[str, ...], inner: str) -> None:
    made, left_out = makeable(parts)
    assert sorted([*(one.name for one in made), *left_out]) == sorted(SELECTORS.names)
    assert {one.settings.get("selector") for one in made if one.name in ("mixed", "covered", "gate")} <= {inner}
    given = Parts(**dict.fromkeys(parts, Given(seen(np.zeros(3)))))
    for one in made:
        if one.name != "policy" and inner != "policy":
            make_selector(one.name, given, **one.settings)
    for name in left_out.keys() - PACKAGES:
        with pytest.raises(ConfigError, match=re.escape(left_out[name])):
            make_selector(name, given)


def test_selectors_of_others_that_cannot_be_made_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {"first": f"{__name__}:First", "gone": "no_such_package:Gone", "scenes": SELECTORS.paths["scenes"]}
    monkeypatch.setattr("refocus_video.selectors.known.SELECTORS", Registry("selectors", paths))
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    made, left_out = makeable(())
    assert not made and left_out["first"] == "needs the setting skip"
    assert "cannot be imported" in left_out["gone"] and "refocus-video[scenes]" in left_out["scenes"]


class First:
    """The first frames after some that are left out."""

    name = "first"

    def __init__(self, skip: int) -> None:
        self.skip = skip

    def open(self, candidates: Candidates | Timeline) -> Any:
        raise NotImplementedError
