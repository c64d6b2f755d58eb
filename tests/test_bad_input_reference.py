"""What can be wrong around reference models: every case is one clear line and exit code 2, and nothing is lost or left behind.

Asked through the commands. What the parts say alone is in test_reference_families.py, test_endpoint.py and test_datasets.py.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from chat_server import completion, serving
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.reference.tiny_families import Shape, family_tokenizer, tiny_model
from refocus_video.types import Example, Question
from test_cli import BAR, Outcome, complaint, finished, refocus, tree

COMMANDS = ("filter", "reference check")
LETTERS = ("reference.answer_mode=letters",)
SMALL = ("sampling.fps=2", "filter.budget=4")


@pytest.fixture
def here(haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with questions about one video."""
    folder = tmp_path / "here"
    folder.mkdir()
    write_examples(folder / "q.jsonl", read_examples(haystack / "train.jsonl")[:3])
    monkeypatch.chdir(folder)
    return folder


def run(command: str, *settings: str, questions: str = "q.jsonl") -> Outcome:
    """A command that asks the reference model, with small settings."""
    pairs = [part for setting in (*SMALL, *settings) for part in ("--set", setting)]
    frames = ("--frames", "4") if command.startswith("reference") else ()
    return refocus(*command.split(), questions, "--config", "haystack", *frames, "--output", "out", *pairs)


def left_behind(here: Path) -> set[str]:
    """Files that hold results."""
    return {name for name in tree(here) if name.startswith("out/") and name.endswith(("kept.jsonl", "check.json"))}


def with_options(here: Path, options: Sequence[str], alone: bool = True) -> None:
    first, *others = read_examples(here / "q.jsonl")
    odd = replace(first, id="odd", question=Question("Which one?", tuple(options)), answer=0)
    write_examples(here / "q.jsonl", [odd] if alone else [odd, *others])


def save_model(folder: Path, words: Sequence[str] = (), **shape: int) -> None:
    tokenizer = family_tokenizer(["which", "?", ".", *words])
    tiny_model("internvl", tokenizer, Shape(**shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# ------------------------------------------------------------------ models


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "qwen2"}, "model type 'qwen2' has no image or video processor, so it cannot look at frames"),
        ({"model_type": "llava"}, "model type 'llava' is not supported; supported: llava_onevision, internvl"),
        ({"model_type": "unheard-of"}, "cannot load the reference model 'model'"),
        ({}, "cannot load the reference model 'model'"),
        (None, "no reference model in model: expected a folder with config.json and weights"),
    ],
)
def test_a_model_that_cannot_look_at_frames(here: Path, command: str, config: dict[str, str] | None, said: str) -> None:
    (here / "model").mkdir()
    if config is not None:
        (here / "model" / "config.json").write_text(json.dumps(config))
    assert said in complaint(run(command, "reference.model=model"))
    assert not left_behind(here)


def test_a_model_without_a_processor_s_own_settings_is_used(here: Path) -> None:
    """Frames are prepared here, by what the model's config says: no file of a processor is read."""
    save_model(here / "model", [*"abcd"])
    assert not list((here / "model").glob("*processor*"))
    finished("filter", "q.jsonl", "--output", "out", "--set", "reference.model=model", "--set", "filter.budget=2",
             "--set", "sampling.max_frames=16")  # fmt: skip


def test_half_a_model(here: Path) -> None:
    save_model(here / "model", [*"abcd"])
    (weights,) = (here / "model").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot load the reference model 'model'" in complaint(run("filter", "reference.model=model"))


@pytest.mark.parametrize("command", COMMANDS)
def test_no_network_and_no_local_copy(
    here: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = complaint(run(command, "reference.model=OpenGVLab/InternVL3-2B-hf"))
    assert "no reference model: could not reach the Hugging Face Hub" in said
    assert "give a local folder, or run `hf download OpenGVLab/InternVL3-2B-hf` where there is a network" in said


def test_a_name_that_is_neither_a_folder_nor_an_id(here: Path) -> None:
    said = complaint(run("filter", "reference.model=no-such-model"))
    assert "no reference model at no-such-model; give a folder with a config.json, or a hub id owner/name" in said


def test_a_reward_that_is_none(here: Path) -> None:
    assert "no-such-reward" in complaint(run("reference check", "reference.reward=no-such-reward"))
    assert tree(here).keys() == {"q.jsonl"}


# ------------------------------------------------------------------ questions that a model cannot take


@pytest.mark.parametrize("command", COMMANDS)
def test_more_options_than_letters(here: Path, command: str) -> None:
    with_options(here, [f"o{i}" for i in range(27)])
    assert "options are lettered A to Z; found 27 of them" in complaint(run(command, *LETTERS))


@pytest.mark.parametrize("command", COMMANDS)
def test_letters_that_the_tokenizer_cannot_name(here: Path, command: str) -> None:
    save_model(here / "model", [*"abcde"])
    with_options(here, "uvwxyz")
    said = complaint(run(command, "reference.model=model", *LETTERS))
    assert "6 options need the letters A to F, but the model's tokenizer has no token of its own for F" in said
    assert "give at most 5 options or use the answer mode words" in said


@pytest.mark.parametrize("command", COMMANDS)
def test_more_frames_than_the_context(here: Path, command: str) -> None:
    save_model(here / "model", [*"abcd"], context=24)
    said = complaint(run(command, "reference.model=model", *LETTERS))
    assert "but the reference model reads at most 24" in said
    assert "show fewer or smaller frames" in said


def test_one_impossible_question_costs_no_other(here: Path) -> None:
    with_options(here, [f"o{i}" for i in range(27)], alone=False)
    for command, file in (("filter", "filter.json"), ("reference check", "check.json")):
        outcome = run(command, *LETTERS, "reference.reward=margin")
        assert outcome.code == 0, outcome.err
        numbers = json.loads((here / "out" / file).read_text())
        assert (numbers["asked"], numbers["measured"], list(numbers["unscored"])) == (3, 2, ["odd"])
        assert "not scored: odd: options are lettered A to Z" in outcome.err


# ------------------------------------------------------------------ servers


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_without_log_probabilities(here: Path, command: str) -> None:
    with serving(lambda _: completion(None)) as server:
        said = complaint(run(command, f"reference.endpoint={server.url}", *LETTERS))
    assert f"endpoint {server.url}: " in said
    assert "gives no log-probabilities (top_logprobs), and scores are made of them" in said
    assert not left_behind(here)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("key", "found"), [("sk-wrong-secret", "was refused"), ("", "is not set")])
def test_a_wrong_key(here: Path, command: str, key: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving(lambda _: completion([("A", -1.0)]), key="sk-right") as server:
        outcome = run(command, f"reference.endpoint={server.url}", *LETTERS)
    assert f"status 401: the key in the environment variable OPENAI_API_KEY {found}" in complaint(outcome)
    written = b"".join(content or b"" for content in tree(here).values())
    assert b"secret" not in written + outcome.err.encode()


def test_nobody_there(here: Path) -> None:
    said = complaint(run("filter", "reference.endpoint=http://127.0.0.1:9/v1", *LETTERS))
    assert "is the server running there?" in said


def test_a_key_in_the_address_is_refused_and_not_shown(here: Path) -> None:
    outcome = run("filter", "reference.endpoint=http://me:secret@localhost/v1", *LETTERS)
    assert "api_key_env" in complaint(outcome)
    assert "secret" not in outcome.err


# ------------------------------------------------------------------ questions and annotations


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "a whale"}, "q.jsonl, line 2, field 'answer': expected a position 0..3, a letter or one of the options"),
        ({"answer": 4}, "line 2, field 'answer': expected a position 0..3"),
        ({"answer": "E"}, "line 2, field 'answer': expected a position 0..3"),
        ({"options": ["one"]}, "line 2, field 'options': expected a list of at least 2 texts"),
        ({"options": "A) B) C)"}, "line 2, field 'options': expected a list of at least 2 texts"),
        ({"evidence": [[2.0, 1.0]]}, "line 2, field 'evidence': expected [start_s, end_s] in seconds, found [2.0, 1.0]"),
        ({"question": ""}, "line 2, field 'question': expected a non-empty text"),
        ({"anwser": 1}, "line 2, field 'anwser': unknown (did you mean 'answer'?); known fields are id, video, question, options"),
    ],
)  # fmt: skip
def test_a_question_that_is_none(here: Path, command: str, change: dict[str, object], said: str) -> None:
    rows = [json.loads(line) for line in (here / "q.jsonl").read_text().splitlines()]
    rows[1] |= change
    (here / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert said in complaint(run(command))
    assert tree(here).keys() == {"q.jsonl"}


NEXT_QA = "video_id,question,answer,qid,type,a0,a1,a2,a3,a4\n"


@pytest.mark.parametrize(
    ("format", "name", "content", "said"),
    [
        ("next-qa", "val.csv", NEXT_QA + "1,what,zero,0,CW,u,v,x,y,z\n", "line 2, field 'answer'"),
        ("next-qa", "val.csv", "video,question\n1\n", "line 2: expected 2 columns as in the header"),
        ("mlvu", "a.json", '[{"video": "x.mp4", "question": 7}]', "field 'question': expected a non-empty text, found 7"),
        ("mlvu", "a.json", '[{"video": "x.mp4",\n oops}]', "a.json, line 2: not valid JSON"),
        ("video-mme", "v.json", '{"a": 1}', "expected a list of objects, found dict"),
        ("longvideobench", "gone.json", None, "no annotation file at gone.json"),
        ("no-such-format", "a.json", "[]", "no-such-format"),
    ],
)  # fmt: skip
def test_a_malformed_annotation_file(here: Path, format: str, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (here / name).write_text(content)
    (here / "x.mp4").touch()
    before = tree(here)
    assert said in complaint(refocus("data", "convert", format, name, "--videos", ".", "--output", "made.jsonl"))
    assert tree(here) == before


def test_an_open_ended_question_at_a_server(here: Path) -> None:
    (first, *_) = read_examples(here / "q.jsonl")
    write_examples(here / "q.jsonl", [Example("open", first.video, Question("What is it?"), 0, accepted=("a ring",))])
    with serving(lambda _: completion([("A", -1.0)])) as server:
        for command in COMMANDS:
            said = complaint(run(command, f"reference.endpoint={server.url}", *LETTERS))
            assert "question 'What is it?' has no options; score it with a local model" in said
    assert server.bodies == []


def test_impossible_numbers(here: Path) -> None:
    for option in ("--frames", "--subsets", "--videos"):
        said = complaint(refocus("reference", "check", "q.jsonl", option, "0"))
        assert option in said
        assert re.search("must be at least 1|greater than or equal to 1", said)
    said = complaint(refocus("reference", "check", "q.jsonl", "--config", "haystack", "--frames", "65"))
    assert "65" in said
    assert "64" in said
    assert not BAR.match(said)
    assert tree(here).keys() == {"q.jsonl"}
