"""Public annotation formats: each is read field by field, every mistake is named, and no row is lost without being counted."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refocus_video.data.datasets import DATASETS
from refocus_video.data.datasets.convert import Tally, convert
from refocus_video.data.datasets.options import split_options, without_letters
from refocus_video.data.datasets.record import Record, Unusable
from refocus_video.data.datasets.videos import VideoFolder
from refocus_video.data.examples import read_examples
from refocus_video.errors import ConfigError, DataError, VideoError
from refocus_video.types import Example, Question, Span
from video_clips import SHARED, write_clip

LISTED = "What is it?\n(A) red\n(B) blue\n(C) green"

# ------------------------------------------------------------------ one small file in each real format


def as_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def as_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(path: Path, rows: list[Any]) -> Path:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


VIDEO_MME = {
    "video_id": "001",
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "History",
    "url": "https://x",
    "videoID": "fFjv",
    "question_id": "001-1",
    "task_type": "Counting",
    "question": "Which?",
    "options": ["A. Apples.", "B. Candles.", "C. Berries.", "D. None."],
    "answer": "C",
}
LVB = {
    "video_id": "86C",
    "id": "86C_0",
    "video_path": "86C.mp4",
    "subtitle_path": "86C_en.json",
    "duration_group": 600,
    "question": "Which?",
    "question_category": "TOS",
    "topic_category": "NP",
    "correct_choice": 1,
    "duration": 190.2,
    "starting_timestamp_for_subtitles": 0,
}
MLVU = {"duration": 468.0, "candidates": ["red", "blue", "green"]}
NEXT = {"video_id": "301", "frame_count": "300", "width": 640, "height": 480, "question": "why", "type": "CW"}
NEXT |= {f"a{i}": text for i, text in enumerate(("run", "2", "jump", "sit", "lie"))}
OFFICIAL = {"video": "301"} | {key: value for key, value in NEXT.items() if key != "video_id"}
OPEN_ENDED = {key: value for key, value in OFFICIAL.items() if not key.startswith("a")}
EGO = {f"option {i}": text for i, text in enumerate(("cook", "wash", "read", "walk", "talk"))}
MMMU = {"id": "dev_Art_Theory_3", "question": "What <image 1>?", "link_selected": "https://x", "image": None}
TAIL = "\nPlease provide your answer by stating the letter followed by the full option."


def said(who: str, text: str) -> dict[str, str]:
    return {"from": who, "value": text}


def _nested(row: dict[str, Any]) -> list[Any]:
    asked = {key: row[key] for key in ("question_id", "task_type", "question", "options", "answer")}
    return [{key: value for key, value in row.items() if key not in asked} | {"questions": [asked]}]


def _next_gqa(folder: Path) -> Path:
    as_json(folder / "gsub_val.json", {"301": {"duration": 34, "location": {"6": [[1.2, 5.8], [7, 9]]}, "fps": 30.0}})
    as_json(folder / "map_vid_vidorID.json", {"301": "1164/301"})
    return as_csv(folder / "val.csv", [NEXT | {"qid": 6, "answer": "2"}, NEXT | {"qid": 7, "answer": "jump"}])


def _activitynet(folder: Path) -> Path:
    as_json(folder / "val_a.json", [{"answer": "yes", "type": 3, "question_id": "v_1Q_3"}])
    return as_json(folder / "val_q.json", [{"question": "is it red", "video_name": "1Q", "question_id": "v_1Q_3"}])


def _egoschema(folder: Path) -> Path:
    as_json(folder / "subset_answers.json", {"0a-1": 3})
    rows = [{"q_uid": "0a-1", "google_drive_id": "x", "question": "Why?", **EGO}]
    return as_json(folder / "questions.json", [*rows, rows[0] | {"q_uid": "0b-2"}])


def _perceptiontest(folder: Path) -> Path:
    asked = {"id": 0, "question": "Why?", "options": ["x", "y", "z"], "answer_id": 1, "area": "physics", "tag": ["t"]}
    other = {"id": 4, "question": "How?", "options": ["x", "y", "z"], "answer_id": 2}
    return as_json(folder / "mc_question_valid.json", {"video_1": {"mc_question": [asked, other], "metadata": {}}})


def _llava(folder: Path) -> Path:
    turns = [
        said("human", "<image>\nWhat is\nit?\nOptions:\nA. A tattoo\nB. A watch" + TAIL),
        said("gpt", "B. A watch."),
        said("human", "And then?\nA. no\nB. yes\nPlease respond with only the letter of the correct answer."),
        said("gpt", "A."),
        said("human", "Tell me more."),
        said("gpt", "It is red."),
    ]
    row = {"id": "101-z", "conversations": turns, "data_source": "academic", "video": "src/youcook2/101/split_2.mp4"}
    as_json(folder / "a_oe_qa.json", "not for us")
    as_json(folder / "a_mc_qa.json", [row])
    return folder


FORMATS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "video-mme json": ("video-mme", lambda f: as_json(f / "a.json", [VIDEO_MME])),
    "video-mme nested": ("video-mme", lambda f: as_json(f / "a.json", _nested(VIDEO_MME))),
    "video-mme parquet": ("video-mme", lambda f: as_parquet(f / "a.parquet", [VIDEO_MME])),
    "longvideobench json": (
        "longvideobench",
        lambda f: as_json(f / "a.json", [LVB | {"candidates": ["x", "y", "z"], "position": [854, 948]}]),
    ),
    "longvideobench parquet": (
        "longvideobench",
        lambda f: as_parquet(
            f / "a.parquet", [LVB | {"option0": "x", "option1": "y", "option2": "z", "option3": "N/A"}]
        ),
    ),
    "mlvu by task": (
        "mlvu",
        lambda f: (
            as_json(
                f / "1_plotQA.json",
                [MLVU | {"video": "m.mp4", "question": "What is it?", "answer": "blue", "question_type": "plotQA"}],
            ),
            as_json(
                f / "9_summary.json",
                [
                    {
                        "video": "m.mp4",
                        "duration": 1,
                        "question": "Sum up.",
                        "answer": "A man …",
                        "question_type": "summary",
                    }
                ],
            ),
            f,
        )[-1],
    ),
    "mlvu parquet": (
        "mlvu",
        lambda f: as_parquet(
            f / "t.parquet",
            [
                MLVU
                | {
                    "video_name": "n_1.mp4",
                    "question": LISTED + "\n",
                    "answer": "B",
                    "task_type": "needle",
                    "question_id": "Q0",
                }
            ],
        ),
    ),
    "lvbench": (
        "lvbench",
        lambda f: as_jsonl(
            f / "video_info.meta.jsonl",
            [
                {
                    "key": "Cm7",
                    "type": "cartoon",
                    "video_info": {},
                    "qa": [
                        {
                            "uid": "55",
                            "question": LISTED,
                            "answer": "B",
                            "question_type": ["er", "tg"],
                            "time_reference": "00:15-00:19",
                        },
                        {
                            "uid": "56",
                            "question": LISTED,
                            "answer": "A",
                            "question_type": ["er"],
                            "time_reference": "1:02:03-1:01:00",
                        },
                    ],
                }
            ],
        ),
    ),
    "next-qa": ("next-qa", lambda f: as_csv(f / "val.csv", [NEXT | {"qid": 6, "answer": 2}])),
    "egoschema json": ("egoschema", _egoschema),
    "egoschema parquet": (
        "egoschema",
        lambda f: as_parquet(
            f / "s.parquet",
            [
                {
                    "question_idx": "7",
                    "video_idx": "0a-1",
                    "question": "Why?",
                    "answer": "3",
                    "option": [f"{letter}. {text}" for letter, text in zip("ABCDE", EGO.values(), strict=True)],
                }
            ],
        ),
    ),
    "video-mmmu": (
        "video-mmmu",
        lambda f: as_parquet(
            f / "Adaptation.parquet",
            [
                MMMU | {"options": ["A. x", "B. y"], "answer": "B", "question_type": "multiple-choice"},
                MMMU
                | {"id": "new_Art_2", "question": "Why?", "options": ["A. x", "B. y"]}
                | {"answer": "B", "question_type": "multiple-choice"},
                MMMU
                | {"id": "new_Art_3", "question": "Half?", "options": [], "answer": "0.5", "question_type": "open"},
            ],
        ),
    ),
    "activitynet-qa": ("activitynet-qa", _activitynet),
    "activitynet-qa parquet": (
        "activitynet-qa",
        lambda f: as_parquet(
            f / "t.parquet",
            [{"video_name": "v_1Q", "question": "is it red", "question_id": "v_1Q_3", "answer": "yes", "type": "3"}],
        ),
    ),
    "activitynet-qa folder": ("activitynet-qa", lambda f: _activitynet(f).parent),
    "next-qa official": ("next-qa", lambda f: as_csv(f / "val.csv", [OFFICIAL | {"qid": 6, "answer": 2}])),
    "next-qa open-ended": (
        "next-qa",
        lambda f: as_csv(
            f / "val.csv",
            [
                OPEN_ENDED | {"qid": 6, "answer": "to run", "additional_ref_answer": "for fun"},
                OPEN_ENDED | {"qid": 7, "answer": "2", "additional_ref_answer": ""},
            ],
        ),
    ),
    "perceptiontest": ("perceptiontest", _perceptiontest),
    "mvbench": (
        "mvbench",
        lambda f: as_json(
            f / "action.json",
            [
                {"video": "a/b.mp4", "question": "Why?", "candidates": ["x", "y"], "answer": "y", "start": 1.5}
                | {"end": 3.0}
            ],
        ),
    ),
    "tempcompass": (
        "tempcompass",
        lambda f: as_json(f / "multi-choice.json", {"17": {"speed": [{"question": LISTED, "answer": "(B) blue"}]}}),
    ),
    "cg-bench": (
        "cg-bench",
        lambda f: as_json(
            f / "cgbench.json",
            [
                {"qid": 5, "video_uid": "vid", "question": "Why?", "choices": ["x", "y", "z"], "right_answer": "C"}
                | {"answer": "z", "clue_intervals": [[1.5, 3]], "sub_category": "Time", "domain": "d"}
            ],
        ),
    ),
    "llava-video": ("llava-video", _llava),
    "csv": (
        "csv",
        lambda f: as_csv(
            f / "mine.csv",
            [
                {
                    "video": "m.mp4",
                    "question": "Which?",
                    "option_a": "x",
                    "option_b": "y",
                    "answer": "1",
                    "evidence": "[[1, 2]]",
                    "from": "me",
                },
                {
                    "video": "m.mp4",
                    "question": "Open?",
                    "option_a": "",
                    "option_b": "",
                    "answer": "2",
                    "evidence": "",
                    "from": "me",
                },
            ],
        ),
    ),
    "jsonl": (
        "jsonl",
        lambda f: as_jsonl(
            f / "mine.jsonl",
            [
                {
                    "id": "a",
                    "video": "m.mp4",
                    "question": "Which?",
                    "options": ["A. x", "B. y"],
                    "answer": "B. y",
                    "type": "t",
                    "who": 1,
                }
            ],
        ),
    ),
}


def examples(name: str, folder: Path) -> list[Example | Unusable]:
    format, write = FORMATS[name]
    rows = list(DATASETS.load(format)(write(folder)))
    return [row.example if isinstance(row, Record) else row for row in rows]


def closed(id: str, video: str, question: str, options: str, answer: int, **more: Any) -> Example:
    return Example(id, video, Question(question, tuple(options.split("|"))), answer, **more)


MME = closed("001-1", "fFjv", "Which?", "Apples.|Candles.|Berries.|None.", 2, question_type="Counting",
             metadata={"duration": "short", "domain": "Knowledge", "sub_category": "History"})  # fmt: skip
KEPT = {"subtitle_path": "86C_en.json", "starting_timestamp_for_subtitles": 0, "duration": 190.2, "duration_group": 600,
        "topic_category": "NP"}  # fmt: skip
LONG = closed("86C_0", "86C.mp4", "Which?", "x|y|z", 1, question_type="TOS", metadata=KEPT)
NEXT_ONE = {"question_type": "CW", "metadata": {"frame_count": "300"}}
SECRET = "the file gives no answer"
EXPECTED: dict[str, list[Example | Unusable]] = {
    "video-mme json": [MME],
    "video-mme nested": [MME],
    "video-mme parquet": [MME],
    "longvideobench json": [
        closed("86C_0", "86C.mp4", "Which?", "x|y|z", 1, question_type="TOS", metadata=KEPT | {"position": [854, 948]})
    ],
    "longvideobench parquet": [LONG],
    "mlvu by task": [
        closed(
            "1_plotQA-1",
            "1_plotQA/m.mp4",
            "What is it?",
            "red|blue|green",
            1,
            question_type="plotQA",
            metadata={"duration": 468.0},
        ),
        Example("9_summary-1", "9_summary/m.mp4", Question("Sum up."), 0, (), "summary", {"duration": 1}, ("A man …",)),
    ],
    "mlvu parquet": [
        closed(
            "Q0", "n_1.mp4", "What is it?", "red|blue|green", 1, question_type="needle", metadata={"duration": 468.0}
        )
    ],
    "lvbench": [
        closed(
            "55",
            "Cm7",
            "What is it?",
            "red|blue|green",
            1,
            question_type="er, tg",
            evidence=(Span(15, 20),),
            metadata={"type": "cartoon", "time_reference": "00:15-00:19"},
        ),
        closed(
            "56",
            "Cm7",
            "What is it?",
            "red|blue|green",
            0,
            question_type="er",
            evidence=(Span(3660, 3724),),
            metadata={"type": "cartoon", "time_reference": "1:02:03-1:01:00"},
        ),
    ],
    # "2" is position 2 where all answers of a file are positions (see below for where they are texts).
    "next-qa": [closed("301_6", "301", "why", "run|2|jump|sit|lie", 2, **NEXT_ONE)],
    "egoschema json": [closed("0a-1", "0a-1", "Why?", "cook|wash|read|walk|talk", 3), Unusable("0b-2", SECRET)],
    "egoschema parquet": [closed("7", "0a-1", "Why?", "cook|wash|read|walk|talk", 3)],
    "video-mmmu": [
        Unusable("dev_Art_Theory_3", "about a picture beside the video, which is not shown"),
        closed(
            "new_Art_2", "new_Art_2", "Why?", "x|y", 1, question_type="multiple-choice", metadata={"subject": "Art"}
        ),
        Example("new_Art_3", "new_Art_3", Question("Half?"), 0, (), "open", {"subject": "Art"}, ("0.5",)),
    ],
    "next-qa official": [closed("301_6", "301", "why", "run|2|jump|sit|lie", 2, **NEXT_ONE)],
    "next-qa open-ended": [
        Example("301_6", "301", Question("why"), 0, (), "CW", {"frame_count": "300"}, ("to run", "for fun")),
        Example("301_7", "301", Question("why"), 0, (), "CW", {"frame_count": "300"}, ("2",)),
    ],
    "activitynet-qa folder": [Example("v_1Q_3", "v_1Q", Question("is it red"), 0, (), "yes/no", {}, ("yes",))],
    "perceptiontest": [
        closed("video_1_0", "video_1", "Why?", "x|y|z", 1, question_type="physics", metadata={"tag": ["t"]}),
        closed("video_1_4", "video_1", "How?", "x|y|z", 2),
    ],
    "mvbench": [
        closed("action-1", "a/b.mp4", "Why?", "x|y", 1, question_type="action", metadata={"start": 1.5, "end": 3.0})
    ],
    "tempcompass": [closed("17-speed-1", "17", "What is it?", "red|blue|green", 1, question_type="speed")],
    "cg-bench": [
        closed("5", "vid", "Why?", "x|y|z", 2, evidence=(Span(1.5, 3),), question_type="Time", metadata={"domain": "d"})
    ],
    "activitynet-qa": [Example("v_1Q_3", "v_1Q", Question("is it red"), 0, (), "yes/no", {}, ("yes",))],
    "activitynet-qa parquet": [Example("v_1Q_3", "v_1Q", Question("is it red"), 0, (), "yes/no", {}, ("yes",))],
    "llava-video": [
        closed(
            "101-z-0", "src/youcook2/101/split_2.mp4", "What is\nit?", "A tattoo|A watch", 1, question_type="academic"
        ),
        closed("101-z-1", "src/youcook2/101/split_2.mp4", "And then?", "no|yes", 0, question_type="academic"),
        Unusable("101-z-2", "no lettered options in the text"),
    ],
    "csv": [
        closed("mine-1", "m.mp4", "Which?", "x|y", 1, evidence=(Span(1, 2),), metadata={"from": "me"}),
        Example("mine-2", "m.mp4", Question("Open?"), 0, (), "", {"from": "me"}, ("2",)),
    ],
    "jsonl": [closed("a", "m.mp4", "Which?", "x|y", 1, question_type="t", metadata={"who": 1})],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_format_is_read_field_by_field(name: str, tmp_path: Path) -> None:
    assert examples(name, tmp_path) == EXPECTED[name]


def test_next_gqa_gives_texts_spans_and_folders(tmp_path: Path) -> None:
    read = list(DATASETS.load("next-qa")(_next_gqa(tmp_path)))
    assert [row.example.answer for row in read] == [1, 2]  # one text that is no digit: "2" is a text as well
    assert [row.example.evidence for row in read] == [(Span(1.2, 5.8), Span(7, 9)), ()]
    assert read[0].videos == ("1164/301", "301")


def test_every_registered_format_is_tested() -> None:
    assert {format for format, _ in FORMATS.values()} == set(DATASETS.paths)
    with pytest.raises(
        ConfigError, match=r"no datasets called 'video-mm' \(did you mean 'video-mme'\?\); known: video-mme, "
    ):
        DATASETS.load("video-mm")


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("format", "write", "said"),
    [
        (
            "video-mme",
            lambda f: as_json(f / "a.json", [VIDEO_MME, VIDEO_MME | {"answer": "E"}]),
            "a.json, row 2, field 'answer': .*4 options.* found 'E'",
        ),
        (
            "video-mme",
            lambda f: as_json(f / "a.json", [VIDEO_MME | {"options": "A. x"}]),
            "row 1, field 'options': expected a list of texts",
        ),
        (
            "video-mme",
            lambda f: as_json(f / "a.json", _nested(VIDEO_MME | {"question": 3})),
            "row 1, question 1, field 'question': expected a non-empty text, found 3",
        ),
        ("video-mme", lambda f: as_json(f / "a.json", {"rows": []}), "a.json: expected a list of objects, found dict"),
        ("video-mme", lambda f: as_json(f / "a.json", [VIDEO_MME, 3]), "row 2: expected an object, found int"),
        ("video-mme", lambda f: f / "nowhere.json", "no annotation file at .*nowhere.json"),
        ("video-mme", lambda f: f, "a folder without annotation files"),
        ("video-mme", lambda f: as_json(f / "a.txt", []), "annotations are read from .json, .*found '.txt'"),
        (
            "longvideobench",
            lambda f: as_json(f / "a.json", [LVB | {"candidates": ["x"] * 2, "correct_choice": 2}]),
            "row 1, field 'correct_choice': expected the position of one of 2 options, found 2",
        ),
        (
            "longvideobench",
            lambda f: as_json(f / "a.json", [LVB | {"candidates": ["x", "y"], "position": ["1"]}]),
            "field 'position': expected a list of frame indices",
        ),
        (
            "mlvu",
            lambda f: as_json(f / "1_x.json", [MLVU | {"video": "m", "question": "?", "answer": "A red one"}]),
            "1_x.json, row 1, field 'answer': .*found 'A red one'",
        ),
        (
            "mlvu",
            lambda f: as_json(f / "1_x.json", [MLVU | {"question": "?", "answer": "red"}]),
            "row 1, field 'video_name'",
        ),
        (
            "lvbench",
            lambda f: as_jsonl(f / "m.jsonl", [{"key": "k", "qa": [{"uid": "1", "question": "What?", "answer": "A"}]}]),
            "line 1, qa 1, field 'question': expected a question with lettered options",
        ),
        (
            "lvbench",
            lambda f: as_jsonl(
                f / "m.jsonl",
                [{"key": "k", "qa": [{"uid": "1", "question": LISTED, "answer": "A", "time_reference": "soon"}]}],
            ),
            "field 'time_reference'",
        ),
        ("lvbench", lambda f: as_jsonl(f / "m.jsonl", [{"key": "k", "qa": 3}]), "line 1, field 'qa'"),
        (
            "next-qa",
            lambda f: as_csv(f / "val.csv", [NEXT | {"qid": 1, "answer": "fly"}]),
            "val.csv, line 2, field 'answer': expected one of the options .* found 'fly'",
        ),
        (
            "next-qa",
            lambda f: (
                as_json(f / "gsub_val.json", {"301": {"location": {"6": [[5, 1]]}}})
                and as_csv(f / "val.csv", [NEXT | {"qid": 1, "answer": "run"}])
            ),
            "gsub_val.json, video '301', field 'location', qid '6'",
        ),
        (
            "egoschema",
            lambda f: (
                as_json(f / "subset_answers.json", {"a": 5})
                and as_json(f / "questions.json", [{"q_uid": "a", "question": "?", **EGO}])
            ),
            "row 1, field 'answer': expected the position of one of 5 options, found 5",
        ),
        ("activitynet-qa", lambda f: as_json(f / "val_q.json", []), "no answers to val_q.json at .*val_a.json"),
        (
            "llava-video",
            lambda f: as_json(
                f / "a.json",
                [{"id": "a", "video": "v", "conversations": [said("human", LISTED), said("gpt", "E. none")]}],
            ),
            "row 1, turn 1, field 'value': .* found 'E. none'",
        ),
        (
            "llava-video",
            lambda f: as_json(
                f / "a.json", [{"id": "a", "video": "v", "conversations": [said("gpt", LISTED), said("gpt", "A")]}]
            ),
            "row 1, turn 1, field 'from': expected 'human'",
        ),
        (
            "csv",
            lambda f: as_csv(
                f / "a.csv", [{"video": "v", "question": "?", "option1": "x", "option2": "y", "answer": "z"}]
            ),
            "a.csv, line 2, field 'answer'",
        ),
        (
            "jsonl",
            lambda f: as_jsonl(f / "a.jsonl", [{"video": "v", "question": "?", "options": ["x", "y"], "answer": "z"}]),
            "a.jsonl, line 1, field 'answer'",
        ),
    ],
)
def test_a_malformed_file_is_named_with_row_and_field(
    format: str, write: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        list(DATASETS.load(format)(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[{", "a.json, line 1: not valid JSON"),
        ("a.json", '["é"]'.encode("latin-1"), "a.json: not a UTF-8 text file"),
        ("a.jsonl", b'{"key": "a", "qa": []}\n{', "a.jsonl, line 2: not valid JSON"),
        ("a.csv", b"video,question\nx\n", "a.csv, line 2: expected 2 columns"),
        ("a.csv", b"video,question\nx,y,z\n", "a.csv, line 2: expected 2 columns"),
        ("a.csv", b'video,question\nx,"y\n', "a.csv, line 2: not readable as CSV"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: not readable as Parquet"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    format = {".csv": "csv", ".jsonl": "lvbench"}.get(path.suffix, "video-mme")
    with pytest.raises(DataError, match=said) as caught:
        list(DATASETS.load(format)(path))
    assert "\n" not in str(caught.value)


def test_without_pyarrow_parquet_files_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"Parquet files need pyarrow; pip install 'refocus-video\[data\]'"):
        list(DATASETS.load("video-mme")(tmp_path / "a.parquet"))


# ------------------------------------------------------------------ options in the text


def test_letters_go_only_where_all_options_have_theirs() -> None:
    assert without_letters(("A. x", "(B) y", "C: z")) == ("x", "y", "z")
    for kept in (("A. x", "y"), ("A. x", "C. y"), ("Apple", "Banana"), ("A.", "B.")):
        assert without_letters(kept) == kept


def test_a_question_may_have_lines_of_its_own() -> None:
    assert split_options("A. Lincoln\nwas he tall?\nA. yes\nas a tree\nB. no") == (
        "A. Lincoln\nwas he tall?",
        ("yes\nas a tree", "no"),
    )
    assert split_options("Which (A) is it?") == ("Which (A) is it?", ())


# ------------------------------------------------------------------ videos


def test_videos_are_found_by_name_however_nested(tmp_path: Path) -> None:
    for place in ("1/m.mp4", "2/deep/m.mkv", "x.y.webm", "3/z.MP4", "3/notes.txt", "4/t.mp4", "4/t.mkv"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    videos = VideoFolder(tmp_path)
    for names, place in (
        (("1/m.mp4",), "1/m.mp4"),
        (("1/m",), "1/m.mp4"),
        (("deep/m",), "2/deep/m.mkv"),
        (("x.y",), "x.y.webm"),
        (("z.mp4",), "3/z.MP4"),
        (("z.avi",), "3/z.MP4"),  # converted since: the same name with another extension
        (("gone", "z"), "3/z.MP4"),
        (("t.mkv",), "4/t.mkv"),
        (("./x.y",), "x.y.webm"),
        ((str(tmp_path / "3" / "notes.txt"),), "3/notes.txt"),
    ):
        assert videos.find(*names) == tmp_path / place
    for names, said in (
        (("m",), "several files for 'm': 1/m.mp4, 2/deep/m.mkv"),
        (("t",), "several files for 't'"),
        (("notes",), "no such file"),
        (("9/z",), "no such file"),  # another video of that name is not this one
        (("./z",), "no such file"),
    ):
        with pytest.raises(DataError, match=said):
            videos.find(*names)
    with pytest.raises(DataError, match="no folder of videos at"):
        VideoFolder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no video files"):
        VideoFolder(tmp_path / "empty")


# ------------------------------------------------------------------ conversion


def _record(id: str, video: str = "v", frames: tuple[int, ...] = ()) -> Record:
    return Record(Example(id, video, Question("?", ("x", "y")), 0), (video,), frames)


def test_nothing_is_left_out_without_being_counted(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").touch()
    rows: list[Record | Unusable] = [
        _record("a"),
        _record("b", "gone"),
        _record("a"),
        Unusable("c", "why"),
        _record("d", "gone"),
        _record("a-2"),
    ]
    tally = Tally()
    written = list(convert(rows, VideoFolder(tmp_path), lambda video: [], tally))
    assert [example.id for example in written] == ["a", "a-2", "a-2-2"]
    assert (tally.asked, tally.written, tally.renamed) == (6, 3, 2)
    assert [row["id"] for row in tally.left_out] == ["b", "c", "d"]
    assert tally.reasons() == {"why": 1, "video not found": 2}
    assert tally.missing == {f"video gone: no such file below {tmp_path}": 2}


def test_evidence_frames_become_stretches_of_their_times(tmp_path: Path) -> None:
    for name in ("v.mp4", "bad.mp4"):
        (tmp_path / name).touch()

    def times(video: str) -> list[float]:
        if "bad" in video:
            raise VideoError("cannot be read")
        return [0.5 * i for i in range(20)]

    tally = Tally()
    rows = [_record("a", frames=(16, 1, 2)), _record("b", frames=(20,)), _record("c", "bad", (1,)), _record("d")]
    written = list(convert(rows, VideoFolder(tmp_path), times, tally))
    assert [e.evidence for e in written] == [(Span(0.0, 2.0), Span(7.0, 9.0)), (), (), ()]
    assert tally.without_evidence == 2


def test_the_command_writes_what_other_commands_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from refocus_video.cli.data import convert as command

    (tmp_path / "videos").mkdir()
    write_clip(tmp_path / "videos" / "86C.mp4", [i * 100 for i in range(30)])
    rows = [
        LVB | {"candidates": ["x", "y"], "position": [20]},
        LVB | {"id": "o", "video_path": "no.mp4", "candidates": ["x", "y"]},
    ]
    output = tmp_path / "out" / "questions.jsonl"
    for as_json_ in (True, False):
        command("longvideobench", as_json(tmp_path / "lvb.json", rows), tmp_path / "videos", output, as_json_)
    numbers = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (numbers["asked"], numbers["written"], numbers["videos"]) == (2, 1, 1)
    assert numbers["missing_videos"] == [f"video no.mp4: no such file below {tmp_path / 'videos'}"]
    (example,) = read_examples(output)
    assert example.video == str(tmp_path / "videos" / "86C.mp4")
    assert example.evidence == (Span(1.0, 3.0),)
    left_out = (tmp_path / "out" / "questions.left-out.jsonl").read_text(encoding="utf-8")
    assert json.loads(left_out) == {"id": "o", "reason": numbers["missing_videos"][0]}
    with pytest.raises(DataError, match=r"none of 1 questions can be used; the first: video no\.mp4: no such file"):
        command("longvideobench", as_json(tmp_path / "lvb.json", rows[1:]), tmp_path / "videos", output)
    assert len(read_examples(output)) == 1  # what was written before is not lost to a failure


# ------------------------------------------------------------------ real files

QA = SHARED / "qa"
REAL = {
    "format-excerpts/videomme.json": ("video-mme", 20, 0),
    "format-excerpts/videomme_test.parquet": ("video-mme", 20, 0),
    "format-excerpts/lvb_val.json": ("longvideobench", 20, 0),
    "format-excerpts/lvb_validation.parquet": ("longvideobench", 20, 0),
    "format-excerpts/mlvu.json": ("mlvu", 20, 0),
    "format-excerpts/mlvu_test.parquet": ("mlvu", 20, 0),
    "format-excerpts/lvbench_video_info.meta.jsonl": ("lvbench", 65, 0),
    "format-excerpts/nextqa_val.csv": ("next-qa", 20, 0),
    "format-excerpts/egoschema_test.parquet": ("egoschema", 5, 15),
    "nextgqa/val.csv": ("next-qa", 3357, 1),
    "real-clips-qa.jsonl": ("jsonl", None, 0),
    "composite-qa.jsonl": ("jsonl", 24, 0),
}


@pytest.mark.skipif(not QA.exists(), reason="real annotation files are not here")
@pytest.mark.parametrize("name", REAL)
def test_a_real_file_is_read_whole(name: str) -> None:
    format, usable, unusable = REAL[name]
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    rows = list(DATASETS.load(format)(QA / name))
    found = [row.example for row in rows if isinstance(row, Record)]
    assert len(rows) - len(found) == unusable
    assert usable is None or len(found) == usable
    assert not any(letter in example.question.text for example in found for letter in ("\nA.", "\n(A)", "(B)"))
    if name.startswith("nextgqa"):
        assert all(example.evidence for example in found)


@pytest.mark.skipif(not QA.exists(), reason="real annotation files are not here")
@pytest.mark.parametrize("pair", [("videomme.json", "videomme_test.parquet"), ("mlvu.json", "mlvu_test.parquet")])
def test_both_forms_of_a_real_data_set_say_the_same(pair: tuple[str, str]) -> None:
    pytest.importorskip("pyarrow")
    read = [DATASETS.load(REAL[f"format-excerpts/{name}"][0])(QA / "format-excerpts" / name) for name in pair]
    # Without the metadata: a duration may differ in its last digit.
    first, second = ([replace(row.example, metadata={}) for row in rows if isinstance(row, Record)] for rows in read)
    assert first == second


def test_a_name_may_begin_above_the_folder_of_videos(tmp_path: Path) -> None:
    clips = tmp_path / "data/clips"
    (clips / "more").mkdir(parents=True)
    for name in ("x.mp4", "more/y.mp4"):
        (clips / name).touch()
    folder = VideoFolder(clips)
    for name in ("x.mp4", "clips/x.mp4", "data/clips/x"):
        assert folder.find(name) == clips / "x.mp4"
    assert folder.find("clips/more/y.mp4") == clips / "more/y.mp4"
    with pytest.raises(DataError, match=r"no such file below .*data/clips, but more/y\.mp4 is there"):
        folder.find("other/y.mp4")
