"""Atomic writes: a file is either the old one or the whole new one, never half of it. And where stored things lie."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refocus_video.errors import ConfigError, RefocusError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it is flushed to disk and renamed over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        sync(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk: a rename is lost with the power until its folder is there too."""
    if os.name == "nt" and path.is_dir():  # no folder can be opened there
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def alone_in(target: Path) -> Iterator[None]:
    """Hold a folder, or a file that grows, for one run; a killed run holds nothing.

    The lock lies beside it, so that every machine that sees the one sees the other, and is gone afterwards.

    Raises:
        ConfigError: if another run holds it.
    """
    path = target.resolve()
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        with only_one(path, wait=False) as mine:
            if not mine:
                raise ConfigError(f"another run is at work in {target}; wait for it, or choose another --output")
            yield
    finally:
        for folder in made:  # a run that ends at once leaves all as it was
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def only_one(target: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file beside ``target``; gives whether it is held, which without ``wait`` it may not be."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    if target.is_dir() and (target.is_mount() or not os.access(target.parent, os.W_OK)):
        path = target / ".lock"  # what lies beside it is on another disk, or cannot be written
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if (
            os.name != "nt"
        ):  # while it is held: who waits for it sees that the file has no name any more, and begins anew
            path.unlink(missing_ok=True)
        lock.release()


def check_folder(folder: Path) -> None:
    """Refuse to write below what is no folder, before any work is done; it need not be there yet.

    Raises:
        RefocusError: it, or what it should lie in, is a file.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise RefocusError(f"{path} is a file; give a folder")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object that says what the rows beside it are of.

    Raises:
        ConfigError: if it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} is damaged, and it says what the results beside it are of; remove {path.parent}, or choose another --output"
        )
    return found


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically; the rows are taken one by one."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def cache_folder(kind: str) -> Path:
    """``$REFOCUS_CACHE/KIND``, else ``~/.cache/refocus-video/KIND``: what can be computed again, shared by all runs."""
    base = os.environ.get("REFOCUS_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "refocus-video") / kind
