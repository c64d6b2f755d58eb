"""What can be wrong around the full-size selector: every case is one clear line and exit code 2, or a new index.

Never a traceback, never a wrong answer from an index of something else. Broken index files are in test_index_store.py, odd
checkpoints in test_policy_checkpoint.py and test_policy_released.py.
"""

import os
import shutil
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from refocus_video.policy.policy import FramePolicy
from test_cli import complaint, finished, refocus, tree
from tiny_policy import tiny_policy, tiny_tokenizer
from video_clips import write_clip

POLICY, RELEASED, VIDEO = "policy", "released", "clip.mp4"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy in both formats and a video, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    tiny_policy().save_pretrained(folder / POLICY)
    tiny_policy().save_released(folder / RELEASED)
    write_clip(folder / VIDEO, [40 * k for k in range(60)])
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same where it may be spoilt, with stored indexes of its own."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("REFOCUS_CACHE", str(folder / "cache"))
    return folder


def select(policy: str = POLICY, *more: str) -> tuple[str, ...]:
    return ("select", VIDEO, "what is shown", "--policy", policy, "--frames", "3", "--fps", "5", "--json", *more)


def indexes(here: Path) -> list[Path]:
    return sorted((here / "cache").rglob("*.safetensors"))


# ------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "no policy folder at nowhere; give a folder with a config.json, or a hub id owner/name"),
        ("empty", "empty holds no config.json; give the folder of a saved policy"),
        (VIDEO, f"no policy folder at {VIDEO}; give a folder"),
        ("gpt2", "model_type must be one of 'refocus-video', 'refocus', 'llava_mamba', 'mamba2'; found 'gpt2'"),
        ("nameless", "found None"),
    ],
)
def test_a_folder_that_is_no_checkpoint(here: Path, name: str, said: str) -> None:
    (here / "empty").mkdir()
    for kind, fields in (("gpt2", '{"model_type": "gpt2"}'), ("nameless", "{}")):
        (here / kind).mkdir()
        (here / kind / "config.json").write_text(fields)
    before = tree(here)
    assert said in complaint(refocus(*select(name)))
    assert tree(here) == before


@pytest.mark.parametrize("settings", [None, "{}"])
def test_the_parent_folder_of_a_policy(here: Path, settings: str | None) -> None:
    """What a training run writes into, with or without a config.json of its own."""
    shutil.copytree(here / POLICY, here / "train" / "policy")
    if settings is not None:
        (here / "train" / "config.json").write_text(settings)
    assert "train is no policy, but there is one in train/policy; give that folder" in complaint(
        refocus(*select("train"))
    )


@pytest.mark.parametrize("policy", [POLICY, RELEASED])
@pytest.mark.parametrize("kept", [0, 7, 300, -1])
def test_a_truncated_safetensors_file(here: Path, policy: str, kept: int) -> None:
    path = here / policy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    said = complaint(refocus(*select(policy)))
    assert f"{policy}/model.safetensors is not readable as safetensors" in said
    assert "download it again" in said
    assert indexes(here) == []


def test_a_header_that_promises_gigabytes(here: Path) -> None:
    (here / POLICY / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    assert "is not readable as safetensors" in complaint(refocus(*select()))


def test_a_truncated_shard(here: Path) -> None:
    folder = here / RELEASED
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert "and its index differ" in complaint(refocus(*select(RELEASED)))
    shard = folder / "model-00001-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-9])
    assert "model-00001-of-00001.safetensors is not readable as safetensors" in complaint(refocus(*select(RELEASED)))


# ------------------------------------------------------------------ tokenizers


def test_a_tokenizer_of_another_model(here: Path) -> None:
    larger = tiny_tokenizer()
    larger.add_tokens([f"word{number}" for number in range(50)] + ["card", "zebra"])
    larger.save_pretrained(here / POLICY)
    assert finished(*select()).json  # known words have kept their tokens
    asked = ("select", VIDEO, "where is the zebra", "--policy", POLICY, "--frames", "3", "--json")
    said = complaint(refocus(*asked))
    assert f"but vocab_size is {len(tiny_tokenizer())}; use the tokenizer that the policy was trained with" in said


def test_another_tokenizer_makes_another_index(here: Path) -> None:
    """The prompt before the frames is part of what an index depends on."""
    finished(*select())
    tokenizer = here / POLICY / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"card"', '"drac"'))
    finished(*select())
    assert len(indexes(here)) == 2


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]"])
def test_a_file_that_is_no_tokenizer(here: Path, content: str) -> None:
    (here / POLICY / "tokenizer.json").write_text(content)
    assert "policy/tokenizer.json is not readable" in complaint(refocus(*select()))


# ------------------------------------------------------------------ no network


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that cannot be reached, and no earlier downloads."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_no_network_and_no_local_copy(here: Path) -> None:
    said = complaint(refocus(*select("interlive/ReFoCUS-1.3B")))
    assert "could not reach the Hugging Face Hub" in said
    assert "give a local folder, or run `hf download interlive/ReFoCUS-1.3B` where there is a network" in said


@pytest.mark.usefixtures("offline")
def test_no_network_and_a_checkpoint_without_its_tokenizer(here: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (here / RELEASED / name).unlink()
    said = complaint(refocus(*select(RELEASED)))
    assert "no tokenizer (released holds no tokenizer.json)" in said
    assert "run `hf download EleutherAI/gpt-neox-20b`" in said


# ------------------------------------------------------------------ a full disk


@contextmanager
def little_room(most_bytes: int) -> Iterator[None]:
    """The system refuses to write files beyond a size, whichever library writes them."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of POSIX")
@pytest.mark.parametrize("most_bytes", [0, 4096])
def test_a_disk_that_fills_up_while_an_index_is_written(here: Path, most_bytes: int) -> None:
    with little_room(most_bytes):
        without = refocus(*select())
    assert without.code == 0, without.err
    assert "cannot write" in without.err
    assert not any(path.is_file() for path in (here / "cache").rglob("*"))
    found = finished(*select()).json
    assert found == without.json == finished(*select(POLICY, "--no-cache")).json


def test_a_disk_that_is_full_before(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    without = refocus(*select())
    assert without.code == 0, without.err
    assert "MB left" in without.err
    monkeypatch.setattr(FramePolicy, "encode", None)  # where an index is what was asked for, it is told before any work
    built = refocus("index", "build", VIDEO, "--policy", POLICY)
    assert built.code == 2
    assert "MB left" in built.err


# ------------------------------------------------------------------ stale indexes


def test_another_video_under_one_name_size_and_time(here: Path) -> None:
    path = here / VIDEO
    first, stat = finished(*select()).json, path.stat()
    write_clip(path, [80 * k for k in range(40)])
    padding = stat.st_size - path.stat().st_size
    assert padding >= 8
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", padding, b"free") + bytes(padding - 8))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    second = finished(*select()).json
    assert second == finished(*select(POLICY, "--no-cache")).json
    assert second != first
    assert len(indexes(here)) == 2


def test_two_videos_of_one_name_in_two_folders(here: Path) -> None:
    (here / "other").mkdir()
    write_clip(here / "other" / VIDEO, [80 * k for k in range(40)])
    finished(*select())
    found = finished("select", f"other/{VIDEO}", *select()[2:]).json
    assert found == finished("select", f"other/{VIDEO}", *select(POLICY, "--no-cache")[2:]).json
    assert len(indexes(here)) == 2


def test_an_index_of_another_revision_of_the_policy(here: Path) -> None:
    finished(*select())
    policy = FramePolicy.from_pretrained(here / POLICY)
    with torch.no_grad():
        policy.key_head.weight.copy_(policy.key_head.weight.roll(1, 0))
        policy.query_head.weight.neg_()
    policy.save_pretrained(here / POLICY)
    found = finished(*select()).json
    assert found == finished(*select(POLICY, "--no-cache")).json
    old, new = sorted(indexes(here), key=lambda path: path.stat().st_mtime)
    shutil.copy(old, new)  # the old index under the new name
    again = refocus(*select())
    assert "name says; the video is indexed again" in again.err
    assert again.json == found
