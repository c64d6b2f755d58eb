"""The real lmms-eval with a local task, local videos and one of its own chat models, whose server is here and keeps what it saw.

lmms-eval asks for another version of PyAV than this package, so it lives in an environment of its own: name its interpreter in
``REFOCUS_LMMS_EVAL_PYTHON`` (docs/lmms-eval.md). Without it, and without lmms-eval beside us, these tests are skipped.
"""

import base64
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import Body, ChatServer, completion, serving
from refocus_video.data.selections import Chosen, read_selections, write_selections
from video_clips import number_of, write_clip

ROOT = Path(__file__).parents[1]
PYTHON = os.environ.get("REFOCUS_LMMS_EVAL_PYTHON") or (sys.executable if importlib.util.find_spec("lmms_eval") else "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="no lmms-eval here; name an interpreter that has it in REFOCUS_LMMS_EVAL_PYTHON"
)

BUDGET = 4
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function task_functions.visual
doc_to_text: "Watch the video and answer.\\n{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 4, temperature: 0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 0.0}}
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tasks: ``clips`` (two videos, three questions) and ``broken`` (the same, one video missing)."""
    folder = tmp_path_factory.mktemp("task")
    write_clip(folder / "steady.mp4", [i * 100 for i in range(40)])
    write_clip(folder / "uneven.mp4", [i * i * 5 for i in range(40)])
    docs = [
        {"question": "Which colour?", "video": "steady.mp4", "answer": "A", "options": ["A. red", "B. blue"]},
        {"question": "How many?", "video": "steady.mp4", "answer": "B", "options": ["A. one", "B. two"]},
        {"question": "Which colour?", "video": "uneven.mp4", "answer": "A", "options": ["A. red", "B. blue"]},
    ]
    (folder / "task_functions.py").write_text(
        f"def visual(doc):\n    return [{str(folder)!r} + '/' + doc['video']]\n", encoding="utf-8"
    )
    broken = [*docs[:2], docs[2] | {"video": "missing.mp4"}]
    for name, rows in {"clips": docs, "broken": broken}.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that makes the package in ``src`` an installed one, with the entry points of pyproject.toml."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    folder = tmp_path_factory.mktemp("plugin")
    info = folder / "refocus_video_here-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: refocus-video-here\nVersion: 0\n", encoding="utf-8")
    lines = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in names.items())
        for group, names in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with serving(lambda body: completion([("A", 0.0)])) as state:
        yield state


class Run:
    """One call of lmms-eval."""

    def __init__(self, task: Path, plugin: Path, output: Path, server: ChatServer) -> None:
        self.task, self.plugin, self.output, self.server = task, plugin, output, server

    def __call__(self, arguments: str, *options: str, tasks: str = "clips") -> str:
        inner = f"model=openai,model.model=tiny,base_url={self.server.url},api_key=none,num_concurrent=2,max_retries=1"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(self.plugin)]),
            "HF_HOME": str(self.output / "hf"),
            "HF_HUB_OFFLINE": "1",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [
                PYTHON, "-m", "lmms_eval", "--model", "refocus", "--model_args", f"{inner},{arguments}",
                "--include_path", str(self.task), "--tasks", tasks, "--batch_size", "1", *options,
            ],
            env=environment, cwd=self.output, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return done.stdout + done.stderr


@pytest.fixture
def run(task: Path, plugin: Path, tmp_path: Path, server: ChatServer) -> Run:
    return Run(task, plugin, tmp_path, server)


def _shown(body: Body) -> tuple[list[float], list[int], str]:
    """Times told, numbers seen in the pictures, and the question, of one request to the server."""
    parts: list[dict[str, Any]] = body["messages"][-1]["content"]
    labels, pictures = parts[:-1:2], parts[1:-1:2]
    times = [float(re.fullmatch(r"<(.*) seconds>", label["text"])[1]) for label in labels]  # type: ignore[index]
    data = [base64.b64decode(picture["image_url"]["url"].partition(",")[2]) for picture in pictures]
    numbers = [number_of(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))) for png in data]
    return times, numbers, parts[-1]["text"]


def _accuracy(output: str) -> float:
    found = re.search(r"exact_match\s*\|[^|]*\|\s*([\d.]+)", output)
    assert found, output[-3000:]
    return float(found[1])


def test_the_chosen_frames_reach_the_model_with_their_true_times(run: Run, server: ChatServer, tmp_path: Path) -> None:
    saved = tmp_path / "uniform.jsonl"
    output = run(f"selector=uniform,budget={BUDGET},candidate_fps=10,save_selections={saved}")
    assert _accuracy(output) == pytest.approx(2 / 3, abs=1e-4)
    assert "3 questions about videos, 4 frames a video; 0 without frames" in output
    rows = {row.id: row for row in read_selections(saved).rows}
    assert list(rows) == [f"clips/test/{i}" for i in range(3)]
    seen = [_shown(body) for body in server.bodies]
    assert len(seen) == 3
    for times, numbers, text in seen:
        assert len(times) == len(numbers) == BUDGET
        assert text.startswith("Watch the video and answer.\n")
        milliseconds = [number * number * 5 if times[-1] > 4 else number * 100 for number in numbers]
        assert times == [round(value / 1000, 1) for value in milliseconds]
        assert numbers in [row.frame_indices for row in rows.values()]

    # The same frames from the file, and no selector is run; then others, made by hand, which say other times.
    server.bodies.clear()
    output = run(f"selections={saved},budget={BUDGET}")
    assert sorted(_shown(body) for body in server.bodies) == sorted(seen)
    other = tmp_path / "other.jsonl"
    fields = [("clips/test/0", "steady", [1, 3, 5, 7]), ("x", "uneven", [30, 31, 32, 33])]
    hand = [
        Chosen(id=id, video=video, question="Which colour?", selector="hand", budget=4, frame_indices=frames)
        for id, video, frames in fields
    ]
    write_selections(other, {}, hand)
    server.bodies.clear()
    output = run(f"selections={other},budget={BUDGET},on_error=count")
    assert sorted(_shown(body)[1] for body in server.bodies) == [[1, 3, 5, 7], [30, 31, 32, 33]]
    assert "without frames, 1×: other.jsonl has no row for this question about steady" in output
    assert _accuracy(output) == pytest.approx(2 / 3, abs=1e-4)


def test_a_question_without_frames_is_wrong_and_counted(run: Run, server: ChatServer) -> None:
    arguments = f"selector=random,selector.seed=3,budget={BUDGET}"
    output = run(arguments, tasks="broken")
    assert "questions without frames: 1 of 3; the first is broken/test/2" in output
    assert not server.bodies
    output = run(f"{arguments},on_error=count", tasks="broken")
    assert _accuracy(output) == pytest.approx(1 / 3, abs=1e-4)
    assert len(server.bodies) == 2
    assert "3 questions about videos, 4 frames a video; 1 without frames" in output
    assert "missing.mp4" in output


def test_simple_models_get_pictures_and_other_mistakes_are_told(run: Run, server: ChatServer) -> None:
    output = run(f"selector=uniform,budget={BUDGET}", "--force_simple")
    assert _accuracy(output) == pytest.approx(2 / 3, abs=1e-4)
    kinds = [[part["type"] for part in body["messages"][-1]["content"]] for body in server.bodies]
    assert [sorted(kind) for kind in kinds] == [["image_url"] * BUDGET + ["text"]] * 3
