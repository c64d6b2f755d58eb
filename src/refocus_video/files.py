"""Atomic writes: a file is either the old one or the whole new one, never half of it. And where stored things lie."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for one run on this machine; a killed run holds nothing.

    Raises:
        ConfigError: if another run holds it.
    """
    from filelock import FileLock, Timeout

    # Not in the folder, which a run that ends at once must leave as it was.
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    lock = FileLock(Path(tempfile.gettempdir()) / f"refocus-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another run is at work in {folder}; wait for it, or choose another --output") from None
    try:
        yield
    finally:
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


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, atomically; the rows are taken one by one."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def cache_folder(kind: str) -> Path:
    """``$REFOCUS_CACHE/KIND``, else ``~/.cache/refocus-video/KIND``: what can be computed again, shared by all runs."""
    base = os.environ.get("REFOCUS_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "refocus-video") / kind
