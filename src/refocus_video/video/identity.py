"""Which video a file is, so that what was kept of one is never taken for another's."""

import hashlib
from pathlib import Path

from refocus_video.video.source import check_file


def file_identity(path: str | Path) -> dict[str, str | int]:
    """Path, size and time of change: known at once, another one after every change of the file.

    Raises:
        VideoError: when there is no such file.
    """
    path = Path(path)
    check_file(path)
    stat = path.stat()
    return {"path": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def content_identity(path: str | Path) -> dict[str, str | int]:
    """The digest of all bytes: the same for copies and under other names, but the whole file is read.

    Raises:
        VideoError: when there is no such file.
    """
    path = Path(path)
    check_file(path)
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
