"""The commands as a user meets them: what they print, what they write, and one clear line for whatever cannot be done."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from PIL import Image
from safetensors.torch import load_file
from typer.main import get_command

from refocus_video.cli.main import app, main
from refocus_video.config import RunConfig, named_config
from refocus_video.device import resolve
from refocus_video.files import alone_in
from refocus_video.train.setup import new_policy
from video_clips import write_clip

TINY = (
    "--config", "haystack",
    "--set", "sampling.fps=1",
    "--set", "filter.threshold=0",
    "--set", "filter.budget=4",
    "--set", "train.max_steps=3",
    "--set", "train.videos_per_step=2",
    "--set", "train.num_generations=4",
    "--set", "train.save_steps=2",
    "--set", "train.stages=[{until: 1.0, budgets: [2]}]",
)  # fmt: skip


BAR = re.compile(
    r"(looking at videos|reward variance|evaluating|writing videos|indexing|showing evidence|converting|training|choosing"
    r"|probing)\b.*\d+/(\d+|\?)( |$)"
)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind for its caller."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def refocus(*arguments: str | Path) -> Outcome:
    """Run a command in this process."""
    out, err, code = StringIO(), StringIO(), 0
    argv = ["refocus", *map(str, arguments)]
    with patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def finished(*arguments: str | Path) -> Outcome:
    """The same, for commands that must work."""
    outcome = refocus(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder, hidden ones too, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def complaint(outcome: Outcome) -> str:
    """The one line that a command which cannot go on says; progress bars are no lines of ours."""
    assert outcome.code == 2, (outcome.out, outcome.err)
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    lines = [line for line in outcome.err.splitlines() if line.strip() and not BAR.match(line)]
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("refocus: ")
    return lines[0]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "tiny"
    new_policy(RunConfig.load(named_config("haystack"))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good clip of 3 seconds, and files that are none."""
    folder = tmp_path_factory.mktemp("videos")
    moov_first = {"movflags": "faststart"}
    clip = write_clip(folder / "clip.mp4", list(range(0, 3000, 40)), container_options=moov_first)
    write_clip(folder / "one.mp4", [0])
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("This is not a video.\n" * 100, encoding="utf-8")
    with wave.open(str(folder / "sound.mp4"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# ------------------------------------------------------------------ help


def _commands(room: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command, also of groups: ``index build``."""
    if not hasattr(room, "commands"):
        yield " ".join(path)
    for name, inner in getattr(room, "commands", {}).items():
        yield from _commands(inner, (*path, name))


COMMANDS = sorted(_commands(get_command(app)))


def test_help_loads_no_torch() -> None:
    code = (
        "import sys; from refocus_video.cli.main import main; sys.argv = ['refocus', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: print('loaded:', sorted({'torch', 'transformers', 'av', 'numpy'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["select", "--help"], ["train", "--help"]):
        run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert run.stdout.endswith("loaded: []\n")
        assert run.stderr == ""


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_help_fits_a_terminal_and_explains_every_option(command: str) -> None:
    outcome = finished(*command.split(), "--help")
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert not re.search(r"\w\.\.\.", outcome.out), "a sentence is cut short"
    joined = re.sub(r"\n {10,}", "  ", outcome.out)  # an explanation may begin below a long option
    for line in joined.splitlines():
        if re.match(r"  (-\w, )?--[\w-]+", line) and "--help" not in line:
            assert re.search(r"  \S.*\w", line.strip()), f"no explanation: {line}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_can_print_json(command: str) -> None:
    assert "--json" in finished(*command.split(), "--help").out


@pytest.mark.parametrize("frames", ["0", "-3"])
def test_a_wrong_number_of_frames_is_said_before_the_video_is_looked_at(tmp_path: Path, frames: str) -> None:
    assert "--frames" in complaint(refocus("select", tmp_path / "not-there.mp4", "Who?", "--frames", frames))


def test_env_says_what_runs_here() -> None:
    found = json.loads(finished("env", "--json").out)
    assert found["packages"]["torch"]
    cpu = found["scan"][-1]
    assert (cpu["device"], cpu["bfloat16"], cpu["float32"]) == ("cpu", "torch", "torch")
    assert "NVIDIA" in cpu["obstacle"]
    assert "Python" in finished("env").out


@pytest.mark.parametrize("arguments", [(), ("haystack",)])
def test_a_bare_command_shows_its_help(arguments: tuple[str, ...]) -> None:
    outcome = refocus(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: refocus")


def test_version_is_the_package_s() -> None:
    import refocus_video

    assert finished("--version").out.strip() == refocus_video.__version__


# ------------------------------------------------------------------ select


def test_select_prints_a_table_and_writes_a_contact_sheet(policy: Path, videos: Path, here: Path) -> None:
    script = Path(sys.executable).parent / "refocus"
    command = [str(script), "select", str(videos / "clip.mp4"), "where is [/b] the [red]dot[/red]?", "--frames", "3"]
    given = ["--policy", str(policy), "--sheet", "clip.frames.png"]
    run = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "where is [/b] the [red]dot[/red]?" in run.stdout.splitlines()[0]
    rows = re.findall(r"^│ (\d+) +│ +([\d.]+) │ +([\d.]+) │ +(\d)\. │$", run.stdout, re.MULTILINE)
    frames = [int(row[0]) for row in rows]
    assert len(frames) == 3
    assert frames == sorted(set(frames))
    assert [float(row[1]) for row in rows] == [round(frame * 0.04, 2) for frame in frames]
    assert all(0 < float(row[2]) <= 1 for row in rows)
    assert sorted(row[3] for row in rows) == ["1", "2", "3"]
    told, sheet_line = [line for line in run.stderr.splitlines() if not BAR.match(line)]
    first = next(row[2] for row in rows if row[3] == "1")
    assert told == f"first pick: probability {first}; even chance among 12 candidates is {1 / 12:.4f}"
    assert sheet_line == "contact sheet: clip.frames.png"
    assert list(tree(here)) == ["clip.frames.png"]
    with Image.open(here / "clip.frames.png") as sheet:
        assert sheet.width > 3 * 150


def test_select_json_is_one_document_that_a_program_can_read(policy: Path, videos: Path, here: Path) -> None:
    arguments = ("select", videos / "clip.mp4", "what?", "-k", "4", "--policy", policy, "--json")
    first = finished(*arguments, "--sheet", here / "a.jpg")
    found = first.json
    assert first.out.count("\n") == 1
    assert found["frame_indices"] == sorted(set(found["frame_indices"]))
    assert len(found["frame_indices"]) == 4
    assert found["times"] == [round(index * 0.04, 6) for index in found["frame_indices"]]
    assert sorted(found["order"]) == [0, 1, 2, 3]
    assert all(0 < p <= 1 for p in found["probabilities"])
    assert found["sheet"] == str(here / "a.jpg")
    assert list(tree(here)) == ["a.jpg"]
    assert (found["device"], found["dtype"], found["scan"]) == (str(resolve()), "float32", "torch")
    again = finished(*arguments, "--sheet", here / "a.jpg")
    assert again.json == found


def test_select_takes_options_a_temperature_and_a_frame_rate(policy: Path, videos: Path, here: Path) -> None:
    base = ("select", videos / "clip.mp4", "what?", "--policy", policy, "--json", "--option", "a dot", "--option", "b")
    drawn = [
        finished(*base, "-k", "2", "--temperature", "1", "--seed", seed).json["positions"] for seed in "0123456789"
    ]
    assert len({tuple(positions) for positions in drawn}) > 3
    assert finished(*base, "-k", "2", "--temperature", "1", "--seed", "4").json["positions"] == drawn[4]
    every = finished(*base, "-k", "3", "--fps", "1").json
    assert every["options"] == ["a dot", "b"]
    assert every["positions"] == [0, 1, 2]  # 3 seconds at one candidate a second: all of them
    assert finished(*base, "-k", "2", "--max-candidates", "2").json["positions"] == [0, 1]


def test_select_explains_what_the_bundled_policy_is_for(policy: Path, videos: Path, here: Path) -> None:
    with patch("refocus_video.cli.select.locate", lambda name, kind: str(policy)):
        outcome = finished("select", videos / "clip.mp4", "what?", "--json")
    assert "generated videos" in outcome.err
    assert outcome.json["sheet"] is None
    assert tree(here) == {}, "a sheet that nobody asked for"


@pytest.mark.parametrize(
    "arguments",
    [
        ["select", "none.mp4", "what?"],
        ["select", "here.mp4", "what?", "--policy", "no/such/folder"],
        ["select", "here.mp4", "what?", "--strategy", "guess"],
        ["select", "here.mp4", "what?", "--temperature", "0"],
        ["select", "here.mp4", "what?", "--frames", "0"],
        ["eval", "none.jsonl"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_told_before_anything_heavy_is_imported(here: Path, arguments: list[str]) -> None:
    (here / "here.mp4").write_bytes(b"looked into later")
    told = (
        "import sys\nfrom refocus_video.cli.main import main\nsys.argv = ['refocus', *sys.argv[1:]]\n"
        "try:\n    main()\nfinally:\n    print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", told, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stdout == "[]\n"


BAD_VIDEOS = {
    "none.mp4": "no video file at",
    "empty.mp4": r"is empty \(0 bytes\)",
    "cut.mp4": "is cut off",
    "text.mp4": "cannot be opened as a video",
    "sound.mp4": "has no video in it, only audio",
    ".": "is a folder, not a video file",
}


def test_select_gives_all_of_a_video_with_fewer_candidates_than_frames(policy: Path, videos: Path, here: Path) -> None:
    found = refocus("select", videos / "clip.mp4", "what?", "--frames", "13", "--policy", policy, "--json")
    assert found.code == 0, found.err
    assert found.json["positions"] == list(range(12))
    assert "asked for 13 frames; the video gives 12 candidates, all of them are selected" in found.err


@pytest.mark.parametrize(("name", "said"), BAD_VIDEOS.items())
def test_select_refuses_a_bad_video_in_one_line(policy: Path, videos: Path, here: Path, name: str, said: str) -> None:
    line = complaint(refocus("select", videos / name, "what?", "--frames", "2", "--policy", policy))
    assert re.search(said, line), line
    assert tree(here) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "0"], "--frames.* greater than or equal to 1; see `refocus select --help`$"),
        (["--frames", "few"], "--frames.*integer.*see `refocus select --help`"),
        (["--temperature", "0"], "temperature must be above 0"),
        (["--fps", "0"], "'fps': input should be greater than 0, found 0"),
        (["--max-candidates", "-1"], "'max_frames': .*greater than or equal to 0"),
        (["--option", "only"], "at least 2 options or none at all, found 1: 'only'"),
        (["--option", "a", "--option", "a"], "options must differ"),
        (["--sheet", "no/such/folder.png"], "no folder at no/such"),
        (["--sheet", "sheet.doc"], "cannot tell an image format from 'sheet.doc'"),
        (["--policy", "nowhere"], "no policy folder at nowhere; give a folder"),
        (["--policy", "."], r"\. holds no config\.json"),
        (["--bogus"], "No such option: --bogus; see `refocus select --help`$"),
        (["one", "too many"], "unexpected extra argument.*see `refocus select --help`$"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_select_refuses_a_bad_option_in_one_line(
    policy: Path, videos: Path, here: Path, arguments: list[str], said: str
) -> None:
    given = [] if "--policy" in arguments else ["--policy", str(policy)]
    line = complaint(refocus("select", videos / "clip.mp4", "what?", *given, *arguments))
    assert re.search(said, line), line
    assert tree(here) == {}


@pytest.mark.parametrize("command", ["select", "index", "eval", "filter", "train", "warm-start"])
def test_a_device_that_is_not_there_is_refused_before_any_work(
    policy: Path, videos: Path, here: Path, command: str
) -> None:
    row = {"id": "a", "video": str(videos / "clip.mp4"), "question": "what?", "options": ["a", "b"], "answer": 0}
    types = [row | {"id": kind, "question_type": kind} for kind in ("one-hop", "two-hop")]  # which the stages ask for
    (here / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in types), encoding="utf-8")
    subject: dict[str, list[str | Path]] = {
        "select": [videos / "clip.mp4", "what?", "--policy", policy],
        "index": [videos / "clip.mp4", "--policy", policy],
    }
    given = subject.get(command) or ["questions.jsonl", "--config", "haystack", "--output", "out"]
    line = complaint(refocus(command, *given, "--device", "cuda:99"))
    assert re.search("asked for device 'cuda:99', but torch .* finds only .*cpu here", line), line
    assert list(tree(here)) == ["questions.jsonl"]


@pytest.mark.parametrize("question", ["", "  \n"])
def test_select_wants_a_question(policy: Path, videos: Path, here: Path, question: str) -> None:
    line = complaint(refocus("select", videos / "clip.mp4", question, "--policy", policy))
    assert "the question text is empty" in line
    assert "Missing argument 'QUESTION'" in complaint(refocus("select", videos / "clip.mp4")).replace(
        "question", "QUESTION"
    )
    assert tree(here) == {}


def test_a_policy_of_another_size_is_refused(policy: Path, videos: Path, here: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in policy.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"d_state": 2 * config["d_state"]}), encoding="utf-8")
    line = complaint(refocus("select", videos / "clip.mp4", "what?", "--policy", other))
    assert re.search(r"the weights do not fit .* wrong shape \(.* instead of ", line), line
    assert tree(here) == {}


def test_a_sheet_that_cannot_be_finished_leaves_nothing(policy: Path, videos: Path, here: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "sheet.png")

    with patch.object(Image.Image, "save", fail):
        line = complaint(refocus("select", videos / "clip.mp4", "what?", "--policy", policy, "--sheet", "sheet.png"))
    assert line == "refocus: sheet.png: No space left on device"
    assert tree(here) == {}


def test_an_unknown_command_is_named(here: Path) -> None:
    assert re.search("No such command 'selct'.*see `refocus --help`$", complaint(refocus("selct")))


# ------------------------------------------------------------------ question files and settings


GOOD: dict[str, Any] = {"id": "a", "video": "v.mp4", "question": "what?", "options": ["x", "y"], "answer": 0}


@pytest.mark.parametrize("command", ["filter", "train", "eval"])
@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("{", r"q\.jsonl, line 2: not valid JSON"),
        (json.dumps(GOOD | {"id": "b", "options": ["x"]}), r"q\.jsonl, line 2, field 'options': .* at least 2"),
        (json.dumps(GOOD | {"id": "b", "answer": 2}), r"q\.jsonl, line 2, field 'answer'"),
        (json.dumps(GOOD), r"q\.jsonl, line 2, field 'id': 'a' was already used in line 1"),
        (json.dumps(GOOD | {"id": "b", "hint": 1}), r"q\.jsonl, line 2, field 'hint': unknown; known fields are id,"),
    ],
    ids=["json", "options", "answer", "id", "unknown"],
)
def test_a_bad_question_file_is_named_by_line_and_field(here: Path, command: str, second: str, said: str) -> None:
    (here / "q.jsonl").write_text(json.dumps(GOOD) + "\n" + second + "\n", encoding="utf-8")
    before = tree(here)
    line = complaint(refocus(command, "q.jsonl", *TINY, "--output", "out"))
    assert re.search(said, line), line
    assert tree(here) == before


@pytest.mark.parametrize("command", ["filter", "train", "eval"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--set", "train.sed=1"],
            r"^refocus: override train\.sed: unknown setting 'train\.sed'.*; known ones here: seed, .*save_steps",
        ),
        (["--set", "train.seed"], "an override is written key=value, found 'train.seed'"),
        (["--set", "train.seed=many"], r"setting 'train\.seed': .*integer.*found 'many'"),
        (["--config", "nowhere.yaml"], r"no configuration file at nowhere\.yaml; .* one of haystack, lite, "),
        (
            ["--config", "own.yaml"],
            r"own\.yaml: unknown setting 'trian'.*; known ones here: sampling, policy, .*train$",
        ),
    ],
    ids=["key", "form", "value", "file", "file-key"],
)
def test_a_bad_setting_is_named(here: Path, command: str, arguments: list[str], said: str) -> None:
    (here / "q.jsonl").write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    (here / "own.yaml").write_text("trian: {seed: 1}\n", encoding="utf-8")
    before = tree(here)
    line = complaint(refocus(command, "q.jsonl", *arguments, "--output", "out"))
    assert re.search(said, line), line
    assert tree(here) == before


@pytest.mark.parametrize("budgets", ["0", "1,-2", "1,,2", "two", ""])
def test_bad_budgets_are_named(here: Path, budgets: str) -> None:
    (here / "q.jsonl").write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    line = complaint(refocus("eval", "q.jsonl", *TINY, "--budgets", budgets, "--output", "out"))
    assert "budgets" in line
    assert list(tree(here)) == ["q.jsonl"]


@pytest.mark.parametrize("command", ["filter", "train", "eval"])
def test_a_run_without_one_usable_video_says_so_once_and_writes_nothing(
    policy: Path, videos: Path, here: Path, command: str
) -> None:
    rows = [GOOD | {"id": name, "video": str(videos / name)} for name in ("none.mp4", "empty.mp4", "text.mp4")]
    (here / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    chosen = ["--policy", str(policy)] if command == "eval" else []
    line = complaint(refocus(command, "q.jsonl", *TINY, *chosen, "--output", "out"))
    assert re.search(r"none of the 3 videos can be used; the first: no video file at .*none\.mp4", line), line
    assert [name for name, content in tree(here).items() if content is not None] == ["q.jsonl"]


def test_a_reference_model_that_is_not_there_is_named(here: Path) -> None:
    (here / "q.jsonl").write_text(json.dumps(GOOD) + "\n", encoding="utf-8")
    line = complaint(refocus("filter", "q.jsonl", *TINY, "--set", "reference.model=./nowhere", "--output", "out"))
    assert "no reference model at ./nowhere" in line
    assert list(tree(here)) == ["q.jsonl"]


def test_an_output_that_is_a_file_is_named(policy: Path, here: Path) -> None:
    (here / "taken").write_text("x", encoding="utf-8")
    line = complaint(refocus("haystack", "generate", "taken", "--train", "1", "--validation", "1", "--test", "1"))
    assert line.startswith("refocus: taken")
    assert tree(here) == {"taken": b"x"}


# ------------------------------------------------------------------ generate, filter, train, eval


def generate(folder: Path, *arguments: str | Path) -> Outcome:
    """Three training videos, one for validation, two for testing."""
    sizes = ("--train", "3", "--validation", "1", "--test", "2")
    return refocus("haystack", "generate", folder, *sizes, *arguments)


@dataclass(frozen=True)
class Run:
    """A whole run: one training video and one test video are broken."""

    folder: Path
    filtered: Outcome
    trained: Outcome
    evaluated: Outcome

    def again(self, command: str) -> Outcome:
        """The very same command, or one with other settings."""
        return STEPS[command](self.folder)


STEPS: dict[str, Callable[[Path], Outcome]] = {
    "filter": lambda folder: refocus(
        "filter", folder / "data" / "train.jsonl", "--output", folder / "filter", *TINY, "--json"
    ),
    "train": lambda folder: refocus(
        "train", folder / "filter" / "kept.jsonl", "--output", folder / "train", *TINY, "--json"
    ),
    "eval": lambda folder: refocus(
        "eval", folder / "data" / "test.jsonl", "--policy", folder / "train" / "policy",
        "--output", folder / "eval", "--budgets", "1,17,2", *TINY, "--json",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    assert generate(folder / "data").code == 0
    (folder / "data" / "train" / "000001.mp4").write_bytes(b"garbage")
    (folder / "data" / "test" / "000000.mp4").unlink()
    outcomes = [step(folder) for step in STEPS.values()]
    assert [outcome.code for outcome in outcomes] == [0, 0, 0], [outcome.err for outcome in outcomes]
    return Run(folder, *outcomes)


def test_filter_counts_the_bad_video_and_goes_on(run: Run) -> None:
    numbers = run.filtered.json
    assert (numbers["asked"], numbers["measured"], numbers["unreadable"]) == (18, 12, 6)
    assert numbers["asked_by_type"] == {"one-hop": 12, "two-hop": 6}
    assert sum(numbers["histogram"]["counts"]) == 12
    (video, reason), *others = numbers["failures"].items()
    assert others == []
    assert video.endswith("train/000001.mp4")
    assert "cannot be opened as a video" in reason
    kept = (run.folder / "filter" / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    assert 0 < len(kept) == numbers["kept"] <= 12
    assert json.loads((run.folder / "filter" / "filter.json").read_text(encoding="utf-8")) | {"usage": []} == numbers


def test_train_writes_a_policy_its_numbers_and_its_settings(run: Run) -> None:
    folder, numbers = run.folder / "train", run.trained.json
    assert numbers["policy"] == str(folder / "policy")
    assert numbers["last"]["step"] == 3
    assert json.loads((folder / "train.json").read_text(encoding="utf-8")) == numbers
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert metrics[-1] == numbers["last"]
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (settings["train"]["max_steps"], settings["sampling"]["fps"]) == (3, 1)


def test_eval_keeps_its_denominators(run: Run) -> None:
    results = run.evaluated.json
    assert json.loads((run.folder / "eval" / "results.json").read_text(encoding="utf-8")) == results
    (missing,) = results["failures"]
    assert missing["video"].endswith("test/000000.mp4")
    assert (missing["questions"], "no video file at" in missing["reason"]) == (6, True)
    rows = [json.loads(line) for line in (run.folder / "eval" / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    short = [len(row["frame_indices"]) for row in rows if row["budget"] == 17 and not row["error"]]
    assert set(short) == {16}  # all candidates of a video that has fewer than the budget
    whole = {(row["selector"], row["budget"]): row["n"] for row in results["rows"] if row["question_type"] == "all"}
    assert {selector for selector, _ in whole} >= {"uniform", "random", "policy", "wrong-question", "oracle"}
    for budget in (1, 2, 17):
        assert whole["policy", budget] == whole["uniform", budget] == 12
    report = (run.folder / "eval" / "report.html").read_text(encoding="utf-8")
    assert report.startswith(("<!doctype html>", "<!DOCTYPE html>"))
    assert "test/000000.mp4" in report


def test_no_command_leaves_temporary_files(run: Run) -> None:
    assert [name for name in tree(run.folder) if Path(name).name.startswith(".") or name.endswith(".tmp")] == []


def kept_of(path: Path) -> object:
    """What a file holds; rows of an evaluation in any order and untimed: videos in which something failed are tried again."""
    if path.name != "rows.jsonl":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    untimed = [{k: v for k, v in row.items() if k not in ("seconds", "choosing_seconds")} for row in rows]
    return sorted(json.dumps(row) for row in untimed)


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("filter", ["variances.jsonl", "kept.jsonl", "filter.json", "config.json"]),
        ("train", ["metrics.jsonl", "train.json", "policy/model.safetensors", "checkpoint-000003/trainer.json"]),
        ("eval", ["rows.jsonl", "evaluation.json"]),
    ],
)
def test_a_repeated_command_repeats_no_work(run: Run, command: str, kept: list[str]) -> None:
    folder = run.folder / command
    before = [kept_of(folder / name) for name in kept]
    again = run.again(command)
    assert again.code == 0, again.err
    assert [kept_of(folder / name) for name in kept] == before
    first = {"filter": run.filtered, "train": run.trained, "eval": run.evaluated}[command].json
    timeless = ("timings", *(("stages",) if command == "eval" else ()))
    assert {k: v for k, v in again.json.items() if k not in timeless} == {
        k: v for k, v in first.items() if k not in timeless
    }


def test_an_interrupted_training_goes_on_where_it_was(run: Run, tmp_path: Path) -> None:
    whole = run.folder / "train"
    output = tmp_path / "train"
    arguments = ("train", run.folder / "filter" / "kept.jsonl", "--output", output, *TINY)
    with patch("refocus_video.train.trainer.Trainer.step", _stop_in_step_3()):
        stopped = refocus(*arguments)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].startswith("refocus: stopped")
    assert [path.name for path in sorted(output.glob("checkpoint-*"))] == ["checkpoint-000002"]
    assert not (output / "policy").exists()
    outcome = finished(*arguments)
    assert "steps: 3" in outcome.err
    one, other = (load_file(folder / "policy" / "model.safetensors") for folder in (whole, output))
    assert {name: tensor.tolist() for name, tensor in one.items()} == {
        name: tensor.tolist() for name, tensor in other.items()
    }


def _stop_in_step_3() -> Callable[..., Any]:
    from refocus_video.train.trainer import Trainer

    step = Trainer.step

    def stopping(self: Trainer) -> Any:
        if self.next_step == 2:
            raise KeyboardInterrupt
        return step(self)

    return stopping


def test_eval_goes_on_after_a_kill(run: Run, tmp_path: Path) -> None:
    rows, output = run.folder / "eval" / "rows.jsonl", run.folder / "eval"
    whole = rows.read_bytes()
    rows.write_bytes(whole[: len(whole) * 2 // 3])
    assert run.again("eval").code == 0
    found = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    expected = [json.loads(line) for line in whole.decode("utf-8").splitlines()]
    assert [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in found] == [
        {k: v for k, v in row.items() if not k.endswith("seconds")} for row in expected
    ]
    assert (output / "report.html").is_file()


@pytest.mark.parametrize(
    ("command", "change", "said"),
    [
        ("filter", "filter.seed=5", "variances of other filter"),
        ("filter", "sampling.fps=2", "variances of other sampling"),
        ("train", "train.learning_rate=0.1", r"a run with other settings \(learning_rate\)"),
        ("eval", "train.seed=9", "results of other settings"),
    ],
)
def test_results_of_other_settings_are_never_mixed(run: Run, command: str, change: str, said: str) -> None:
    questions = {"filter": "data/train.jsonl", "train": "filter/kept.jsonl", "eval": "data/test.jsonl"}[command]
    policy = ["--policy", str(run.folder / "train" / "policy"), "--budgets", "1,17,2"] if command == "eval" else []
    before = tree(run.folder / command)
    output = ("--output", run.folder / command)
    line = complaint(refocus(command, run.folder / questions, *policy, *output, *TINY, "--set", change))
    assert re.search(said, line), line
    assert tree(run.folder / command) == before


def test_a_filter_keeps_features_only_when_asked_and_train_goes_on_with_them(run: Run, tmp_path: Path) -> None:
    assert not (run.folder / "filter" / "features").exists()
    features = ("--features", tmp_path / "features")
    questions = run.folder / "data" / "train.jsonl"
    filtered = finished("filter", questions, "--output", tmp_path / "filter", *features, *TINY, "--json").json
    assert {k: v for k, v in filtered.items() if k != "output"} == {
        k: v for k, v in run.filtered.json.items() if k != "output"
    }
    kept = set(tree(tmp_path / "features"))
    assert len(kept) == 2  # what the reference model sees of the two videos that can be read
    finished("train", tmp_path / "filter" / "kept.jsonl", "--output", tmp_path / "train", *features, *TINY)
    assert kept < set(tree(tmp_path / "features"))
    with patch("refocus_video.train.views.load_candidates", side_effect=AssertionError("looked at a video again")):
        finished("train", tmp_path / "filter" / "kept.jsonl", "--output", tmp_path / "again", *features, *TINY)


@pytest.mark.parametrize(("choice", "said"), [(("--keep", "2"), "the 2 largest"), (("--threshold", "2"), "τ = 2")])
def test_filter_chooses_by_number_or_by_value(run: Run, tmp_path: Path, choice: tuple[str, str], said: str) -> None:
    shutil.copytree(run.folder / "filter", tmp_path / "filter")
    outcome = finished("filter", run.folder / "data" / "train.jsonl", "--output", tmp_path / "filter", *TINY, *choice)
    assert said in outcome.out
    kept = (tmp_path / "filter" / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == (2 if choice[0] == "--keep" else 0)


def test_results_of_other_questions_are_never_mixed(run: Run, tmp_path: Path) -> None:
    lines = (run.folder / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    fewer = run.folder / "data" / "fewer.jsonl"
    fewer.write_text("\n".join(lines[:6]) + "\n", encoding="utf-8")
    for command, said in (("filter", "variances of other questions"), ("train", r"other settings \(examples\)")):
        line = complaint(refocus(command, fewer, "--output", run.folder / command, *TINY))
        assert re.search(said, line), line


def test_the_tables_of_a_run_fit_a_terminal(run: Run) -> None:
    filtered = finished("filter", run.folder / "data" / "train.jsonl", "--output", run.folder / "filter", *TINY)
    evaluated = finished(
        "eval", run.folder / "data" / "test.jsonl", "--policy", run.folder / "train" / "policy",
        "--output", run.folder / "eval", "--budgets", "1,17,2", *TINY,
    )  # fmt: skip
    for outcome, wanted, unusable in ((filtered, "│ all       │    18 │", 1), (evaluated, "all questions (12)", 1)):
        assert wanted in outcome.out
        assert max(map(len, outcome.out.splitlines())) <= 80
        assert outcome.err.count("unusable: ") == unusable


# ------------------------------------------------------------------ real backgrounds


def test_haystack_draws_over_real_videos(videos: Path, tmp_path: Path) -> None:
    backgrounds = tmp_path / "backgrounds"
    backgrounds.mkdir()
    (backgrounds / "clip.mp4").write_bytes((videos / "clip.mp4").read_bytes())
    outcome = generate(tmp_path / "data", "--backgrounds", backgrounds, "--json")
    assert outcome.code == 0, outcome.err
    assert {split: row["videos"] for split, row in outcome.json.items()} == {"train": 3, "validation": 1, "test": 2}
    assert "clip.mp4" in (tmp_path / "data" / "manifest.json").read_text(encoding="utf-8")
    plain = tmp_path / "plain"
    assert generate(plain).code == 0
    for name in ("train/000000.mp4", "test/000001.mp4"):
        assert (plain / name).read_bytes() != (tmp_path / "data" / name).read_bytes()
    assert "holds another data set" in complaint_of_generate(generate(plain, "--seed", "1"))


def complaint_of_generate(outcome: Outcome) -> str:
    """The complaint below the bar that had already begun."""
    assert (outcome.code, outcome.out, "Traceback" in outcome.err) == (2, "", False)
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("refocus: ")]
    return line


@pytest.mark.parametrize(("name", "said"), [(None, "no video files in"), ("text.mp4", "a background cannot be used")])
def test_unusable_backgrounds_are_refused(videos: Path, here: Path, name: str | None, said: str) -> None:
    (here / "backgrounds").mkdir()
    if name:
        (here / "backgrounds" / name).write_bytes((videos / name).read_bytes())
    before = tree(here)
    assert said in complaint(generate(here / "data", "--backgrounds", here / "backgrounds"))
    assert tree(here) == before


@pytest.mark.parametrize("arguments", [("--train", "0"), ("--seed", "-1")])
def test_impossible_sizes_are_refused(here: Path, arguments: tuple[str, str]) -> None:
    line = complaint(refocus("haystack", "generate", "data", *arguments))
    assert re.search(r"Invalid value for '--\w+'.*see `refocus haystack generate --help`$", line), line
    assert tree(here) == {}


# ------------------------------------------------------------------ several processes


TWO_PROCESSES = """
import os, sys
from pathlib import Path
import refocus_video.pipeline as pipeline
from safetensors.torch import save_file
from refocus_video.cli.main import main

rank, output, written, stores = os.environ["RANK"], Path(sys.argv[sys.argv.index("--output") + 1]), set(), []

def watch(event, arguments):
    if event == "os.rename" or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        name = arguments[1] if event == "os.rename" else arguments[0]
        path = Path("" if isinstance(name, int) else os.fsdecode(name))
        if path.is_relative_to(output):
            written.add(path.name if path.parent.name == "features" else path.relative_to(output).parts[0])

make = pipeline.feature_store
def keep(*arguments):
    stores.append(make(*arguments))
    return stores[0]

pipeline.feature_store = keep
sys.addaudithook(watch)
main()
Path(f"{output}-{rank}.txt").write_text("\\n".join(sorted(n for n in written if not n.startswith("."))))
save_file(stores[0].policy.state_dict(), f"{output}-{rank}.safetensors")
"""


def test_two_processes_train_one_policy_and_write_once(run: Run, tmp_path: Path) -> None:
    script, output = tmp_path / "both.py", tmp_path / "train"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    questions = run.folder / "filter" / "kept.jsonl"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*launch, "train", questions, "--output", output, "--features", output / "features", *TINY, "--json"],
        capture_output=True, text=True, check=False, env=environment, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["last"]["step"] == 3  # one document, not one from each process
    first, second = (load_file(f"{output}-{rank}.safetensors") for rank in "01")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.equal(second[name]), name
    saved = load_file(output / "policy" / "model.safetensors")
    assert saved.keys() == first.keys()
    assert all(tensor.equal(first[name]) for name, tensor in saved.items())
    wrote = [Path(f"{output}-{rank}.txt").read_text(encoding="utf-8").split() for rank in "01"]
    assert {"policy", "train.json", "config.json", "metrics.jsonl"} <= set(wrote[0])
    assert len(wrote[1]) == 2  # what two models see of its share of the two videos
    assert all(name.endswith(".safetensors") for name in wrote[1])
    assert not set(wrote[1]) & set(wrote[0])
    assert len(list((output / "features").iterdir())) == 4


@pytest.mark.parametrize(
    "command", ["filter", "train", "eval", "choose", "needle", "probe influence", "reference check"]
)
def test_two_runs_do_not_share_a_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    output, temporary = tmp_path / "new" / "out", tmp_path / "tmp"
    temporary.mkdir()
    questions = run.folder / "data" / "train.jsonl"
    if command == "needle":
        questions = run.folder / "data" / "train" / "000000.mp4"
    with alone_in(output):  # as a process with another temporary folder sees it
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        line = complaint(refocus(*command.split(), questions, "--output", output, *TINY))
    assert line == f"refocus: another run is at work in {output}; wait for it, or choose another --output"
    assert list(tmp_path.iterdir()) == [temporary]  # no lock is left, nor the folders that were made for it
    assert list(temporary.iterdir()) == []


STEPS_INTO: dict[str, tuple[str, ...]] = {
    "filter": ("data/train.jsonl",),
    "train": ("filter/kept.jsonl",),
    "eval": ("data/test.jsonl", "--budgets", "2"),
    "choose": ("data/test.jsonl", "--budgets", "2"),
    "probe influence": ("data/test.jsonl", "--frames", "2"),
}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which file a handle is of is known on Linux alone")
@pytest.mark.parametrize("command", STEPS_INTO)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.ESTALE])
def test_a_disk_that_takes_nothing_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, code: int
) -> None:
    questions, *more = STEPS_INTO[command]
    output = tmp_path / "out"
    synced = os.fsync

    def full(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_relative_to(tmp_path):
            raise OSError(code, os.strerror(code))
        synced(handle)

    monkeypatch.setattr(os, "fsync", full)
    line = complaint(refocus(*command.split(), run.folder / questions, *more, "--output", output, *TINY))
    assert os.strerror(code) in line, line
    assert [name for name in tree(tmp_path) if "/." in name or name.startswith(".")] == []


def test_a_full_disk_and_then_a_free_one(run: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk))
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        command = ("train", run.folder / "filter" / "kept.jsonl", "--output", disk / "out", *TINY)
        line = complaint(refocus(*command))
        assert re.search(r"cannot keep a checkpoint in .*No space left on device.*; free some space", line), line
        assert [name for name in tree(disk) if Path(name).name.startswith(".")] == []
        subprocess.run(("mount", "-o", "remount,size=64m", str(disk)), check=True)
        finished(*command)
    finally:
        subprocess.run(("umount", str(disk)), check=True)
