"""Evaluations put side by side: which may be, what the tables say, and that the page is whole with any number of them."""

import csv
import io
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from refocus_video.cli.main import app
from refocus_video.config import RunConfig, named_config
from refocus_video.errors import ConfigError, DataError
from refocus_video.evaluate.export import clear, comma_separated, latex, markdown, tables
from refocus_video.evaluate.filmstrip import answer_line
from refocus_video.evaluate.looks import looks
from refocus_video.evaluate.overview import Overview, survey, write_overview, write_tables
from refocus_video.evaluate.plots import STYLES, style_of
from refocus_video.evaluate.runs import PROBES, Runs, compare, load_runs
from refocus_video.evaluate.sections import UNPARSABLE, causes, duration, time_edges
from refocus_video.evaluate.stages import Stages, read_stages
from refocus_video.evaluation import Comparison, Spec, run_comparison
from test_report import EVIL, Checker

Row = dict[str, Any]
MANY = [f"selector-{number}" for number in range(12)]


def row(number: int, selector: str, *, correct: bool = True, budget: int = 2, **more: Any) -> Row:
    """A row as ``rows.jsonl`` holds it; two questions a video."""
    positions = [(3 * number + place) % 16 for place in range(budget)]
    return {
        "id": f"q{number}",
        "video": f"films/v{number // 2}.mp4",
        "options": ["a", "b", "c", "d"],
        "question_type": "one-hop" if number % 2 else "two-hop",
        "length": ("short", "long")[number % 4 // 2],
        "dataset": "test",
        "model": "tiny",
        "selector": selector,
        "budget": budget,
        "positions": positions,
        "frame_indices": [10 * p for p in positions],
        "predicted": 0 if correct else 1,
        "correct": correct,
        "recall": None,
        "candidates": 16,
        "pool": "abc",
        "choosing_seconds": 0.01 * (number + 1),
        "seconds": 0.5,
        "unparsable": False,
        "error": None,
    } | more


def write_run(folder: Path, rows: Sequence[Row], settings: Row | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    described = {"settings": {"fingerprints": {"questions": "f0"}} | (settings or {}), "models": ["tiny"]}
    (folder / "evaluation.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def some(selectors: Sequence[str], budgets: Sequence[int] = (1, 2), questions: int = 8, **more: Any) -> list[Row]:
    return [
        row(n, name, correct=(n + place) % 3 > 0, budget=budget, **more)
        for place, name in enumerate(selectors)
        for budget in budgets
        for n in range(questions)
    ]


# ------------------------------------------------------------------ which runs may be compared


def test_runs_are_found_in_folders_and_one_below_and_become_one(tmp_path: Path) -> None:
    a = write_run(tmp_path / "all" / "a", some(["uniform"]))
    write_run(tmp_path / "all" / "b", some(["aks"]))
    c = write_run(tmp_path / "c", some(["uniform"], model="other"))
    counted: list[int] = []
    runs = load_runs([tmp_path / "all", c], lambda: counted.append(1))
    assert len(counted) == 2 and list(runs.settings) == [str(a), str(tmp_path / "all" / "b"), str(c)]
    assert runs.selectors == ["uniform", "aks"]
    assert {key: len(rows) for key, rows in runs.cells.items()} == {("test", "tiny"): 32, ("test", "other"): 16}
    assert runs.rows == tuple(some(["uniform"]) + some(["aks"]) + some(["uniform"], model="other"))


def test_a_baseline_that_both_ran_counts_once(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", some(["uniform", "aks"]))
    slower = [r | {"seconds": 9.0, "video": "/mnt/" + r["video"]} for r in some(["uniform"])]
    b = write_run(tmp_path / "b", [*slower, *some(["bolt"])])
    assert [line["n"] for line in compare(load_runs([a, b])) if line["question_type"] == "all"] == [8] * 6


@pytest.mark.parametrize(
    ("change", "settings", "complaint"),
    [
        ({"correct": None}, {}, "differ in uniform with 1 frame, answered by tiny, question 'q0'"),
        ({"selector": "aks", "pool": "xyz", "candidates": 8}, {}, r"films/v0.mp4: .*b chose among 8 candidates \(pool xyz\), .*a"),
        ({"selector": "aks"}, {"fingerprints": {"questions": "f1"}}, "asked different questions of 'test'"),
        ({"selector": "aks"}, {"models": [{"model": "x/tiny", "dtype": "float32"}]}, "dtype is 'auto' in .*a and 'float32' in .*b"),
        ({"correct": None}, {"in_words": True}, "in_words is None in .*a and True in .*b"),
        ({"selector": "aks"}, {"models": [{"dtype": "auto"}], "in_words": True}, "in_words is None in .*a and True in .*b"),
    ],
)  # fmt: skip
def test_runs_that_do_not_compare_are_refused(tmp_path: Path, change: Row, settings: Row, complaint: str) -> None:
    model = {"model": "x/tiny", "dtype": "auto", "reward": "margin"}
    a = write_run(tmp_path / "a", some(["uniform"]), {"models": [model]})
    b = write_run(tmp_path / "b", [r | change for r in some(["uniform"])], {"models": [model]} | settings)
    with pytest.raises(DataError, match=complaint):
        load_runs([a, b])
    assert load_runs([a]) and load_runs([b])


def test_settings_of_training_do_not_keep_runs_apart(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", some(["uniform"]), {"models": [{"model": "tiny", "reward": "margin"}]})
    b = write_run(tmp_path / "b", some(["aks"]), {"models": [{"model": "tiny", "reward": "accuracy"}]})
    assert len(load_runs([a, b]).rows) == 32


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", None), ('{"id": 1', "line 1: not valid JSON"), ('{"id": "q"}', "line 1: has no 'dataset'")],
)
def test_files_of_something_else_are_refused(tmp_path: Path, text: str, complaint: str | None) -> None:
    with pytest.raises(DataError, match=r"no evaluation in .*run `refocus eval`"):
        load_runs([tmp_path])
    folder = write_run(tmp_path / "a", [])
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    if complaint is None:
        assert survey(load_runs([folder])).lines == []
    else:
        with pytest.raises(DataError, match=complaint):
            load_runs([folder])


# ------------------------------------------------------------------ numbers


def test_lines_are_those_of_every_file_model_group_and_length() -> None:
    runs = Runs((*some(["uniform", "aks"], (2,)), *some(["uniform"], (2,), dataset="more", length="")), {})
    lines = compare(runs)
    groups = ["all", "one-hop", "two-hop", "length: short", "length: long"]
    assert [(x["dataset"], x["selector"], x["question_type"]) for x in lines] == [
        *(("test", name, group) for group in groups for name in ("uniform", "aks")),
        *(("more", "uniform", group) for group in groups[:3]),
    ]
    whole = {x["selector"]: x for x in lines if x["question_type"] == "all" and x["dataset"] == "test"}
    right = {
        name: [r["correct"] for r in runs.rows if r["selector"] == name and r["dataset"] == "test"] for name in whole
    }
    assert whole["aks"]["accuracy_gain"] == pytest.approx(np.mean(right["aks"]) - np.mean(right["uniform"]))
    assert whole["uniform"]["accuracy_gain"] is None
    assert {x["n"] for x in lines if x["question_type"] == "length: short"} == {4}


def test_lost_answers_stay_in_the_denominator_and_are_told_by_cause() -> None:
    rows = some(["uniform", "aks"], (2,))
    rows[0] |= {"error": "/x/films/v0.mp4 is cut off", "video": "/x/films/v0.mp4", "correct": True}
    rows[1] |= {"error": "films/v0.mp4 is cut off", "correct": False}
    rows[9] |= {"unparsable": True, "correct": False}
    line = next(x for x in compare(Runs(tuple(rows), {})) if x["question_type"] == "all")
    assert (line["n"], line["failed"], line["unparsable"]) == (8, 2, 0)
    assert line["accuracy"] == pytest.approx(sum(r["correct"] and not r["error"] for r in rows[:8]) / 8)
    assert causes(rows) == {("test", "tiny", "the video is cut off"): 2, ("test", "tiny", UNPARSABLE): 1}


def test_an_unknown_baseline_is_named() -> None:
    runs = Runs(tuple(some(["aks", "bolt"])), {})
    with pytest.raises(DataError, match="no rows of the baseline 'uniform'; the runs hold aks, bolt"):
        survey(runs, "uniform")
    assert all(line["accuracy_gain"] is None for line in survey(runs).lines)
    assert any(line["accuracy_gain"] is not None for line in survey(runs, "bolt").lines)


def test_where_selectors_look_is_known_for_simple_choices() -> None:
    # One looks at the first half only, one at the last half only, one where the first does.
    places = {"first": [0, 1, 2, 3], "last": [4, 5, 6, 7], "half": [0, 1, 6, 7], "foreign": [0, 1, 2, 3]}
    rows = [
        row(n, name, budget=4, positions=held if name != "foreign" else None, frame_indices=held, candidates=8)
        for name, held in places.items()
        for n in range(3)
    ]
    found = looks([*rows, row(9, "first", budget=1)], 4)["test"]
    assert found["selectors"] == list(places) and found["unplaced"] == 3
    overlap, apart = np.array(found["overlap"]), found["divergence"]
    np.testing.assert_allclose(
        overlap, [[1, 0, 1 / 3, 1], [0, 1, 1 / 3, 0], [1 / 3, 1 / 3, 1, 1 / 3], [1, 0, 1 / 3, 1]], atol=1e-4
    )
    assert apart[0][0] == 0 and apart[0][1] == pytest.approx(np.log(2), abs=1e-4) and apart[3] == [None] * 4
    assert found["spread"] == found["quarters"] == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0, 0, 0.5], [0] * 4]
    assert looks(rows, 3) == {}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 µs"), (12e-6, "12 µs"), (0.0034, "3.4 ms"), (2, "2.0 s"), (300, "5.0 min"), (9000, "2.5 h")],
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds: float, said: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == said


def test_every_time_falls_into_a_bin() -> None:
    for values in ([0.5], [1e-6, 3.0, 700.0]):
        edges = time_edges([np.array(values)])
        assert np.histogram(values, edges)[0].sum() == len(values) and (np.diff(edges) > 0).all()


# ------------------------------------------------------------------ tables for other documents


def lines_of(rows: Sequence[Row]) -> list[Row]:
    return compare(Runs(tuple(rows), {}))


def test_the_best_selector_is_bold_and_a_control_never_is() -> None:
    rows = [
        row(n, name, correct=n < right)
        for name, right in (("uniform", 6), ("aks", 12), ("oracle", 16))
        for n in range(16)
    ]
    text = markdown(lines_of(rows))
    whole = text.split("\n\n")[1]
    assert "| uniform | 37.5 |" in whole and "| aks | **75.0**" in whole and "| oracle | 100.0\\* |" in whole
    assert text.startswith(
        "### test · tiny · all questions · n = 16\n\n| frames picked by | 2 frames |\n| --- | ---: |\n"
    )


def test_names_do_not_break_tables() -> None:
    evil = "a|b_c\\d~{x}^\n& 100 %"
    rows = some(["uniform", evil], (1,), dataset="set_1\n%")
    for line in markdown(lines_of(rows)).splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3, line
    text = latex(lines_of(rows))
    assert text.count("\\begin{tabular}{lr}") == text.count("\\end{tabular}") == len(tables(lines_of(rows)))
    inner = [line for line in text.splitlines() if line and not line.startswith(("%", "\\"))]
    assert all(line.endswith("\\\\") and len(re.findall(r"(?<!\\)&", line)) == 1 for line in inner), inner
    assert "\\textbackslash{}d\\textasciitilde{}\\{x\\}\\textasciicircum{} \\& 100 \\%" in text


def test_csv_holds_every_number() -> None:
    lines = lines_of([*some(["uniform", "aks"]), *some(["uniform"], dataset="more")])
    read = list(csv.DictReader(io.StringIO(comma_separated(lines))))
    assert len(read) == len(lines) and set(read[0]) == set(lines[0])
    assert [float(found["accuracy"]) for found in read] == [line["accuracy"] for line in lines]
    assert comma_separated([]) == markdown([]) == latex([]) == ""


def test_a_selector_without_a_budget_has_a_dash() -> None:
    lines = lines_of([*some(["uniform"], (1, 2)), *some(["aks"], (2,))])
    assert "| aks | – | " in markdown(lines)


# ------------------------------------------------------------------ the page


def page_of(folder: Path, runs: Runs, baseline: str | None = None, **more: Any) -> tuple[str, Overview]:
    overview = survey(runs, baseline)
    return write_overview(overview, folder, **more).read_text(encoding="utf-8"), overview


def check_page(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert "script" not in checker.tags and "link" not in checker.tags
    assert all(place.startswith("#") for place in checker.loads)
    assert "://" not in text and "@import" not in text and not re.search(r"url\((?!#)", text)
    ids = re.findall(r'\sid="?([^"\s>]*)', text)
    assert len(ids) == len(set(ids))
    assert {place[1:] for place in checker.loads} <= set(ids)
    return checker


def test_the_page_is_whole_with_many_selectors_files_and_models(tmp_path: Path) -> None:
    cells = (("one", "small"), ("one", "large"), ("two", "small"))
    rows = [r for d, m in cells for r in some(["uniform", *MANY, "oracle"], dataset=d, model=m)]
    rows[5] |= {"error": "gone", "correct": False}
    stages = (
        {
            "folder": "a",
            "stage": "answering",
            "who": "tiny",
            "calls": 2,
            "seconds": 3.0,
            "rise_mb": 7.0,
            "device_rise_mb": 0.0,
        },
    )
    probes = (
        {"folder": "runs/n", "kind": "needle", "rows": [
            {"selector": s, "budget": 4, "length": n, "depth": d, "recall": 0.5, "accuracy": None, "n": 2, "failed": 0}
            for s in MANY for n in (64, 128) for d in (0.0, 50.0)
        ]},
        {"folder": "runs/s", "kind": "suppression", "rows": [
            {"arm": a, "k": k, "accuracy": 0.5, "accuracy_low": None, "accuracy_high": None, "n": 9}
            for a in ("top", "random") for k in (0, 4)
        ]},
    )  # fmt: skip
    text, _ = page_of(tmp_path, Runs(tuple(rows), {"runs/a": {"settings": {"seed": 7}}}, stages, probes))
    checker = check_page(text)
    for said in ("2 question files", "2 models", "14 ways of picking", "1 of 672 answers were lost", "Where they look",
                 "How long it takes", "Needle in a haystack", "Evidence suppressed", "seed: 7", "1 failed", "one-hop",
                 "short videos", "Jensen"):  # fmt: skip
        assert said in text.replace("\u202f", " "), said
    assert "Random frames among the picks" not in text and "Influence of single frames" not in text
    assert checker.tags.count("svg") > 40 and len(text) < 2_000_000


def test_sections_without_data_are_left_out(tmp_path: Path) -> None:
    nothing: Row = {"choosing_seconds": None, "seconds": None, "question_type": "", "length": "", "candidates": None}
    bare = [r | nothing for r in some(["aks"], (4,))]
    text, _ = page_of(tmp_path, Runs(tuple(bare), {}))
    check_page(text)
    for title in ("How long it takes", "<h3>By", "Needle", "gain</th>", "Jensen"):
        assert title not in text
    only, _ = page_of(tmp_path, Runs((), {}, (), ({"folder": "n", "kind": "influence", "rows": [
        {"group": "all", "rank": 1, "influence": 0.2, "influence_low": 0.1, "influence_high": 0.3, "flipped": 0.1, "n": 4}
    ]},)))  # fmt: skip
    check_page(only)
    assert "lines at the left: 95" in only, "the shares of answers at the right have no intervals"
    assert "Influence of single frames" in only and "Failures" not in only


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    rows = some(["uniform", EVIL], dataset=EVIL, model=EVIL, question_type=EVIL, length=EVIL, video=EVIL)
    rows[3] |= {"error": f"no {EVIL}x", "correct": False}
    text, _ = page_of(tmp_path, Runs(tuple(rows), {EVIL: {EVIL: EVIL}}, ({"stage": EVIL, "who": EVIL, "calls": 1, "seconds": 1.0,
                      "rise_mb": 1.0, "device_rise_mb": 0.0},)), title=EVIL)  # fmt: skip
    assert "<script" not in text and text.count("&lt;script&gt;") > 10


def test_all_files_are_written_and_agree(tmp_path: Path) -> None:
    overview = survey(Runs(tuple(some(["uniform", "aks"])), {"a": {}}))
    write_tables(overview, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["rows"] == overview.lines and found["baseline"] == "uniform" and found["looks"]["test"]["budget"] == 2
    assert len((tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()) == len(overview.lines) + 1
    assert (tmp_path / "tables.md").stat().st_size and (tmp_path / "tables.tex").stat().st_size


def test_sixteen_unknown_selectors_are_told_apart() -> None:
    names = [f"s{number}" for number in range(16)]
    drawn = [style_of(name, ["uniform", *names]) for name in names]
    assert len({(s.colour, s.marker, s.dash) for s in drawn}) == len({s.colour for s in drawn}) == 16
    assert not {s.colour for s in drawn} & {s.colour for s in STYLES.values()}


def test_probes_are_read_beside_evaluations_and_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "a", some(["uniform"]))
    for kind in PROBES:
        (tmp_path / "b").mkdir(exist_ok=True)
        (tmp_path / "b" / f"{kind}.json").write_text(json.dumps({"kind": kind, "rows": []}), encoding="utf-8")
    assert [probe["kind"] for probe in load_runs([tmp_path / "b"]).probes] == list(PROBES)
    both = load_runs([tmp_path])
    assert len(both.probes) == 4 and len(both.rows) == 16


# ------------------------------------------------------------------ stages


def test_stages_add_up_over_several_goes_and_survive_a_failure(tmp_path: Path) -> None:
    for _ in range(2):
        stages = Stages()
        for _ in range(3):
            with stages.of("picking", "aks"):
                pass
        with pytest.raises(DataError), stages.of("opening"):
            raise DataError("gone")
        stages.keep(tmp_path)
    found = {(r["stage"], r["who"]): r for r in read_stages(tmp_path)}
    assert found["picking", "aks"]["calls"] == 6 and found["opening", ""]["calls"] == 2


def test_a_stage_that_takes_memory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([(100.0, 0.0), (100.0, 0.0), (100.0, 0.0), (580.0, 64.0), (580.0, 64.0), (600.0, 64.0)])
    monkeypatch.setattr("refocus_video.evaluate.stages._peaks", lambda: next(held))
    stages = Stages()
    for name in ("small", "large", "large"):
        with stages.of(name):
            pass
    assert [(r["stage"], r["rise_mb"], r["device_rise_mb"]) for r in stages.rows] == [
        ("small", 0, 0),
        ("large", 500, 64),
    ]


# ------------------------------------------------------------------ where an evaluation ends


def test_an_evaluation_without_a_policy_ends_in_an_overview_and_says_what_each_stage_took(
    haystack: Path, tmp_path: Path
) -> None:
    config = RunConfig.load(named_config("haystack"))
    comparison = Comparison((Spec("uniform"), Spec("stride")), (config.reference,), (1, 2), baseline="stride")
    files = [haystack / "train.jsonl", haystack / "validation.jsonl"]
    for _ in range(2):  # a second go repeats nothing, and forgets nothing
        results = run_comparison(files, comparison, tmp_path, config, lambda title, total: nullcontext(lambda: None))
        stages = {(row["stage"], row["who"]): row["calls"] for row in results["validation"]["stages"]}
        assert (
            stages["opening", ""] == 4
            and stages["picking", "stride"] == 4
            and stages["answering", "haystack-tiny"] == 2
        )
    for folder, said in ((tmp_path, "2 question files"), (tmp_path / "train", "1 question file")):
        text = (folder / "report.html").read_text(encoding="utf-8")
        check_page(text)
        assert said in text and "gain over stride" in text
    with pytest.raises(ConfigError, match="'bolt' is not among those compared: uniform, stride"):
        run_comparison(
            files, replace(comparison, baseline="bolt"), tmp_path / "x", config, lambda *_: nullcontext(lambda: None)
        )


def test_a_written_answer_is_shown_on_a_filmstrip() -> None:
    said = row(0, "policy") | {"predicted": None, "text": "a red <card>"}
    assert "✓ answered “a red &lt;card&gt;”" in answer_line(said)
    assert "no answer: none was given" in answer_line(said | {"text": None})


# ------------------------------------------------------------------ the command


def test_the_command_writes_everything_and_says_where(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", some(["uniform", "aks"]))
    call = ["report", str(a), "--output", str(tmp_path / "out")]
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 0 and str(tmp_path / "out" / "report.html") in told.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "tables.md", "tables.tex", "results.csv", "results.json"}
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert json.loads(CliRunner().invoke(app, [*call, "--json"]).stdout) == found
    refused = CliRunner().invoke(app, [*call, "--baseline", "bolt"])
    assert isinstance(refused.exception, DataError) and "runs hold uniform, aks" in str(refused.exception)


@pytest.mark.parametrize(("questions", "told"), [(14, False), (16, True)])
def test_a_difference_over_few_videos_is_never_called_clear(questions: int, told: bool) -> None:
    rows = [row(n, name, correct=name == "aks") for name in ("uniform", "aks") for n in range(questions)]
    line = next(x for x in lines_of(rows) if x["selector"] == "aks" and x["question_type"] == "all")
    assert line["accuracy_gain_low"] > 0
    assert clear(line) is told
