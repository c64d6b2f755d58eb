"""Which video a file is, so that what was kept of one is never taken for another's."""

import hashlib
from pathlib import Path

from refocus_video.video.source import check_file

_END = 1 << 16


def file_identity(path: str | Path) -> dict[str, str | int]:
    """Path, size, time of change and a digest of both ends: known at once, another one after every change of the file.

    Size and time can be those of another file that was copied over this one with its old time. The ends hold the table of
    the packets' sizes or the packets themselves, which differ then.

    Raises:
        VideoError: when there is no such file.
    """
    path = Path(path)
    check_file(path)
    stat = path.stat()
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, stat.st_size - _END))
        digest.update(file.read(_END))
    ends = digest.hexdigest()[:32]
    return {"path": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ends": ends}


def content_identity(path: str | Path) -> dict[str, str | int]:
    """The digest of all bytes: the same for copies and under other names, but the whole file is read.

    Raises:
        VideoError: when there is no such file.
    """
    path = Path(path)
    check_file(path)
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}
