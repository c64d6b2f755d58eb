"""Indexes on disk: the same answers without decoding, never an old or broken index, bounded, safe for several processes."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from refocus_video.cli.index import parse_size, size_text
from refocus_video.cli.main import app
from refocus_video.config import SamplingConfig
from refocus_video.errors import DataError, RefocusWarning, StoreError, VideoError
from refocus_video.policy import index as index_file
from refocus_video.policy.index import load_index, revision, save_index
from refocus_video.policy.policy import FramePolicy
from refocus_video.selectors import store as store_module
from refocus_video.selectors.learned import FrameSelector
from refocus_video.selectors.store import IndexStore
from refocus_video.selectors.stream import index_video
from refocus_video.types import Question
from test_stream import assert_same_index
from tiny_policy import tiny_features, tiny_policy
from video_clips import write_clip

SAMPLING = SamplingConfig(fps=5.0, max_frames=32)
QUESTION = Question("what is shown", ("red", "blue"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", [40 * k for k in range(60)])


@pytest.fixture
def store(tmp_path: Path) -> IndexStore:
    return IndexStore(tmp_path / "store")


def selector(store: IndexStore | None, **changes: Any) -> FrameSelector:
    return FrameSelector(tiny_policy(**changes), sampling=SAMPLING, store=store)


def files(store: IndexStore) -> list[Path]:
    return sorted(store.folder.iterdir()) if store.folder.exists() else []


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("nothing may be decoded or encoded")

    monkeypatch.setattr("refocus_video.video.source.av.open", never)
    monkeypatch.setattr(FramePolicy, "encode", never)
    monkeypatch.setattr(FramePolicy, "continue_index", never)


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("method", ["autoregressive", "block"])
def test_answers_from_a_stored_index_are_the_same_and_decode_nothing(
    clip: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plain = selector(None, frame_generation_method=method).select(clip, QUESTION, 4)
    first = selector(store, frame_generation_method=method).select(clip, QUESTION, 4)
    no_decoding(monkeypatch)
    second = selector(store, frame_generation_method=method)
    assert plain.to_json() == first.to_json() == second.select(clip, QUESTION, 4).to_json()
    sampled = [second.select(clip, QUESTION, 4, temperature=1.0, seed=s).positions.tolist() for s in (0, 0, 1, 2)]
    assert sampled[0] == sampled[1]
    assert len({tuple(p) for p in sampled}) > 1
    with pytest.raises(AssertionError, match="decoded"):
        selector(None).open(clip)


@pytest.mark.parametrize(("dtype", "atol"), [("float32", 0.0), ("float16", 2e-3), ("bfloat16", 2e-2)])
def test_storage_types_keep_what_they_can(tmp_path: Path, dtype: Any, atol: float) -> None:
    policy = tiny_policy()
    with torch.no_grad():
        index = policy.index(tiny_features(policy, videos=1))
    save_index(tmp_path / "i.safetensors", index, {"times": torch.arange(9.0)}, {"a": 1}, dtype)
    stored = load_index(tmp_path / "i.safetensors", policy)
    assert stored.about == {"a": 1, "dtype": dtype}
    assert stored.extra["times"].tolist() == list(range(9))
    for a, b in ((stored.index.keys, index.keys), (stored.index.values, index.values)):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=atol, atol=atol)
    if not atol:
        assert_same_index(stored.index, index, 0.0)
    size = {"float32": 4}.get(dtype, 2)
    assert load_file(tmp_path / "i.safetensors")["ssm.0"].element_size() == size


def test_numbers_too_large_for_a_type_are_refused(tmp_path: Path) -> None:
    policy = tiny_policy()
    with torch.no_grad():
        index = policy.index(tiny_features(policy, videos=1))
    index.keys[0, 0, 0] = 1e6
    with pytest.raises(StoreError, match="float16 cannot hold; store it as bfloat16"):
        save_index(tmp_path / "i.safetensors", index, {}, {}, "float16")
    assert list(tmp_path.iterdir()) == []


def test_another_storage_type_is_made_when_it_is_asked_for(clip: Path, store: IndexStore) -> None:
    policy = tiny_policy()
    name = revision(policy)
    half = IndexStore(store.folder, "float16")
    assert [s.open(policy, name, clip, SAMPLING).reused for s in (half, half, store)] == [False, True, True]
    whole = IndexStore(store.folder, "float32").open(policy, name, clip, SAMPLING)
    assert (whole.reused, whole.dtype, len(files(store))) == (False, "float32", 1)
    first = IndexStore(store.folder, "bfloat16").open(policy, name, clip, SAMPLING)
    assert_same_index(store.open(policy, name, clip, SAMPLING).index, first.index, 0.0)


# ------------------------------------------------------------------ never another video's or policy's index


def test_all_that_an_index_depends_on_is_in_its_name(clip: Path, store: IndexStore) -> None:
    selector(store).open(clip)
    assert len(files(store)) == 1
    selector(store, attention_scaling=True).open(clip)  # other settings
    other = selector(store)
    other.open(clip)
    assert len(files(store)) == 2
    before = other.revision
    with torch.no_grad():
        other.policy.key_head.weight[0, 0] += 1e-3  # other weights, in the same object
    assert other.revision != before
    other.open(clip)
    FrameSelector(tiny_policy(), sampling=SamplingConfig(fps=2.0), store=store).open(clip)
    assert len(files(store)) == 4
    stat = clip.stat()
    os.utime(clip, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    selector(store).open(clip)
    assert len(files(store)) == 5


def test_two_videos_under_one_name_are_told_apart(clip: Path, store: IndexStore) -> None:
    first = selector(store).select(clip, QUESTION, 3)
    write_clip(clip, [80 * k for k in range(50)])
    second = selector(store).select(clip, QUESTION, 3)
    assert second.to_json() == selector(None).select(clip, QUESTION, 3).to_json()
    assert second.times.tolist() != first.times.tolist()


def test_videos_known_by_content_may_move(clip: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    by_content = IndexStore(store.folder, by_content=True)
    expected = selector(by_content).select(clip, QUESTION, 3)
    moved = shutil.move(clip, clip.with_name("moved.mp4"))
    no_decoding(monkeypatch)
    found = selector(by_content).select(moved, QUESTION, 3)
    assert found.video == str(moved)
    assert found.frame_indices.tolist() == expected.frame_indices.tolist()


def test_the_revision_is_that_of_the_numbers_and_their_type() -> None:
    assert revision(tiny_policy()) == revision(tiny_policy())
    assert len({revision(tiny_policy()), revision(tiny_policy(torch.float64)), revision(tiny_policy(n_layer=1))}) == 3


def test_a_video_that_changes_meanwhile_is_not_kept(
    clip: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = index_video

    def touching(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        os.utime(clip)
        return result

    monkeypatch.setattr(store_module, "index_video", touching)
    with pytest.raises(VideoError, match="changed while it was indexed"):
        selector(store).open(clip)
    assert files(store) == []


# ------------------------------------------------------------------ broken and foreign files


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    save_file({"keys": torch.zeros(3, 16)}, path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flip, _foreign, _empty])
def test_a_damaged_index_is_named_and_made_again(clip: Path, store: IndexStore, damage: Any) -> None:
    first = selector(store).select(clip, QUESTION, 4)
    (path,) = files(store)
    damage(path)
    with pytest.warns(RefocusWarning, match=rf"{path} is not a usable video index: .*; the video is indexed") as told:
        again = selector(store).select(clip, QUESTION, 4)
    assert len(told) == 1 and "\n" not in str(told[0].message)
    assert again.to_json() == first.to_json()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        selector(store).select(clip, QUESTION, 4)
    assert files(store) == [path]


def test_an_index_of_something_else_under_the_name_is_made_again(clip: Path, store: IndexStore) -> None:
    first = selector(store).select(clip, QUESTION, 4)
    (path,) = files(store)
    other = write_clip(clip.with_name("other.mp4"), [40 * k for k in range(60)])
    selector(store).open(other)
    (second,) = set(files(store)) - {path}
    shutil.copy(second, path)
    with pytest.warns(RefocusWarning, match="something else than its name says; the video is indexed again"):
        assert selector(store).select(clip, QUESTION, 4).to_json() == first.to_json()


def test_an_index_does_not_fit_another_architecture(tmp_path: Path) -> None:
    policy = tiny_policy()
    with torch.no_grad():
        save_index(tmp_path / "i.safetensors", policy.index(tiny_features(policy, videos=1)), {}, {})
    others: list[dict[str, Any]] = [{"n_layer": 3}, {"d_model": 32}, {"d_state": 4}]
    for changes in others:
        with pytest.raises(StoreError, match="as this policy's would be"):
            load_index(tmp_path / "i.safetensors", tiny_policy(**changes))
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "none.safetensors", policy)


# ------------------------------------------------------------------ writing


def test_an_interrupted_write_leaves_nothing(clip: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(index_file, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        selector(store).open(clip)
    assert files(store) == []


def test_a_full_disk_is_told_once_and_the_answer_given(
    clip: Path, store: IndexStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = selector(None).select(clip, QUESTION, 4)

    def full(tensors: object, path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(index_file, "save_file", full)
        with pytest.warns(RefocusWarning, match=r"cannot write .*No space left on device\); .*going on without"):
            assert selector(store).select(clip, QUESTION, 4).to_json() == first.to_json()
        with pytest.raises(StoreError, match=r"cannot write .*No space left on device\); free some space"):
            selector(replace(store, required=True)).open(clip)
    assert files(store) == []
    usage = shutil.disk_usage(store.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.warns(RefocusWarning, match=r"an index needs up to .* MB left; name another folder in REFOCUS_CACHE"):
        assert selector(store).select(clip, QUESTION, 4).to_json() == first.to_json()
    assert files(store) == []
    no_decoding(monkeypatch)
    with pytest.raises(StoreError, match=r"an index needs up to .* MB left; name another folder in REFOCUS_CACHE"):
        selector(replace(store, required=True)).open(clip)  # found out before anything is decoded


def test_a_folder_that_cannot_be_made_is_one_clear_line(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RefocusWarning, match=r"cannot keep indexes in .*file/store.*going on without") as told:
        selector(IndexStore(tmp_path / "file" / "store")).select(clip, QUESTION, 4)
    assert len(told) == 1
    with pytest.raises(StoreError, match=r"cannot keep indexes in .*file/store"):
        selector(IndexStore(tmp_path / "file" / "store", required=True)).open(clip)


BUILD = """
import sys
import time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_index_store import QUESTION, IndexStore, selector, store_module
make = store_module.index_video
def told(*arguments, **named):
    print("built", file=sys.stderr)
    time.sleep(0.3)
    return make(*arguments, **named)
store_module.index_video = told
chosen = selector(IndexStore(Path({folder!r})))
Path({ready!r} + sys.argv[1]).touch()
while not Path({ready!r} + "go").exists():
    time.sleep(0.001)
print(chosen.select({video!r}, QUESTION, 4).to_json())
"""


def test_two_processes_may_index_the_same_video(clip: Path, store: IndexStore, tmp_path: Path) -> None:
    ready = str(tmp_path / "ready-")
    code = BUILD.format(tests=str(Path(__file__).parent), folder=str(store.folder), ready=ready, video=str(clip))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(k)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for k in range(2)
    ]
    deadline = time.monotonic() + 120
    while not all(Path(f"{ready}{k}").exists() for k in range(2)) and time.monotonic() < deadline:
        time.sleep(0.01)
    Path(f"{ready}go").touch()
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert sorted(said_err.count("built") for _, said_err in said) == [0, 1]  # the other one waited for it
    assert said[0][0] == said[1][0] == f"{selector(store).select(clip, QUESTION, 4).to_json()}\n"
    assert len(files(store)) == 1


# ------------------------------------------------------------------ size


def test_the_indexes_used_least_recently_go_first(tmp_path: Path, store: IndexStore) -> None:
    chosen = selector(store)
    clips = [write_clip(tmp_path / f"{k}.mp4", [40 * i for i in range(30 + k)]) for k in range(4)]
    for clip in clips[:3]:
        chosen.open(clip)
    for age, entry in enumerate(store.entries()):
        os.utime(entry.path, (0, 1e9 - age))
    chosen.open(clips[0])  # reading marks as used
    names = [Path(entry.about["video"]).name for entry in store.entries()]
    assert names[0] == "0.mp4"
    size = max(entry.num_bytes for entry in store.entries())
    bounded = IndexStore(store.folder, limit_bytes=2 * size + 10)
    selector(bounded).open(clips[3])
    assert {Path(entry.about["video"]).name for entry in store.entries()} == {"0.mp4", "3.mp4"}
    selector(IndexStore(store.folder, limit_bytes=0)).open(clips[1])
    assert [Path(entry.about["video"]).name for entry in store.entries()] == ["1.mp4"]  # the new one stays


def test_files_of_killed_processes_are_cleared_and_never_listed(clip: Path, store: IndexStore) -> None:
    selector(store).open(clip)
    old, new = store.folder / ".a-1.safetensors", store.folder / ".b-2.safetensors"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    assert len(store.entries()) == 1
    assert store.prune(10**9) == []
    assert not old.exists()
    assert new.exists()


# ------------------------------------------------------------------ commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run: with a policy, and indexes of their own."""
    tiny_policy().save_pretrained(tmp_path / "policy")
    monkeypatch.setenv("REFOCUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Any:
    """What a command printed as JSON, and how it ended."""
    result = CliRunner().invoke(app, [*words, "--json"])
    said = result.stdout.splitlines()
    return (json.loads(said[-1]) if said else None), result.exception


def test_select_answers_from_what_index_made(folder: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--policy", "policy", "--fps", "5")
    built, error = run("index", str(clip), *options)
    assert error is None
    assert [(row["frames"], row["reused"]) for row in built["videos"]] == [(12, False)]
    asked = ("select", str(clip), "what is shown", "--frames", "3", "--sheet", "s.png", *options)
    plain, error = run(*asked, "--no-cache")
    assert error is None
    monkeypatch.setattr(FramePolicy, "encode", None)
    monkeypatch.setattr(store_module, "index_video", None)
    found, error = run(*asked)
    assert (error, found) == (None, plain)
    again, _ = run("index", "build", str(clip), *options)
    assert [row["reused"] for row in again["videos"]] == [True]


def test_bad_videos_of_a_batch_are_counted_and_the_others_done(folder: Path, clip: Path) -> None:
    (folder / "bad.mp4").write_bytes(b"no video at all")
    made, error = run("index", "bad.mp4", str(clip), "none.mp4", "--policy", "policy")
    assert isinstance(error, DataError)
    assert str(error) == "2 of 3 videos could not be indexed"
    assert [row["video"] for row in made["videos"]] == [str(clip)]
    assert sorted(made["failed"]) == ["bad.mp4", "none.mp4"]
    assert "no video file at none.mp4" in made["failed"]["none.mp4"]


def test_indexes_are_listed_and_removed(folder: Path, clip: Path) -> None:
    run("index", str(clip), "--policy", "policy", "--dtype", "float16")
    run("index", str(clip), "--policy", "policy", "--fps", "2")
    listed, _ = run("index", "ls")
    assert [(row["video"], row["dtype"]) for row in listed["indexes"]] == [
        (str(clip), "float32"),
        (str(clip), "float16"),
    ]
    assert listed["bytes"] == sum(row["bytes"] for row in listed["indexes"])
    text = CliRunner().invoke(app, ["index", "ls"]).stdout
    assert "2 indexes in" in text
    assert "…" not in text
    rows = [line.split("│") for line in text.splitlines() if "│" in line]
    assert str(clip) in "".join(row[1].strip() for row in rows)  # whole, if over several lines
    removed, _ = run("index", "rm", listed["indexes"][0]["name"][:12])
    assert [row["name"] for row in removed["removed"]] == [listed["indexes"][0]["name"]]
    removed, error = run("index", "rm", str(clip), "other.mp4")
    assert len(removed["removed"]) == 1
    assert "no index of other.mp4" in str(error)
    run("index", str(clip), "--policy", "policy")
    assert len(run("index", "prune", "--limit", "1GB")[0]["removed"]) == 0
    assert len(run("index", "prune", "--limit", "1KB")[0]["removed"]) == 1
    assert run("index", "ls")[0]["indexes"] == []
    assert "name the videos" in str(run("index", "rm")[1])


def test_a_damaged_index_is_listed_and_can_be_removed(folder: Path) -> None:
    (folder / "cache" / "index").mkdir(parents=True)
    (folder / "cache" / "index" / "x.safetensors").write_bytes(b"nothing")
    assert "not a usable video index" in run("index", "ls")[0]["indexes"][0]["problem"]
    assert len(run("index", "rm", "--all")[0]["removed"]) == 1


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("500MB", 5 * 10**8), ("1.5 gb", 15 * 10**8), ("7B", 7)])
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1GB", "1XB", "nan", "inf", "1BM"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="a size is a number"):
        parse_size(text)


def test_sizes_are_written() -> None:
    assert [size_text(n) for n in (0, 999, 1000, 123_456_789)] == ["0 B", "999 B", "1 KB", "123 MB"]
