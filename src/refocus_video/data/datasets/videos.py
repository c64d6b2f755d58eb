"""Finds the file of a video in a folder by the name that a data set gives it."""

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

from refocus_video.errors import DataError

EXTENSIONS = frozenset(
    ".mp4 .mkv .webm .avi .mov .m4v .mpg .mpeg .ts .m2ts .flv .wmv .ogv .3gp .gif".split()  # noqa: SIM905
)


class VideoFolder:
    """All video files below a folder, looked through once."""

    def __init__(self, folder: Path) -> None:
        """Raises :class:`DataError` if there is no such folder, or it holds no video at all."""
        if not folder.is_dir():
            raise DataError(f"no folder of videos at {folder}")
        self.folder = folder
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for place, _, names in os.walk(folder, followlinks=True):
            inside = PurePosixPath(Path(place).relative_to(folder).as_posix())
            for name in names:
                if Path(name).suffix.lower() in EXTENSIONS:
                    self._by_stem[Path(name).stem].append(inside / name)
        if not self._by_stem:
            raise DataError(f"{folder}: holds no video files; known extensions are {' '.join(sorted(EXTENSIONS))}")

    def find(self, *names: str) -> Path:
        """The file that one of the names stands for; the first name that leads somewhere counts.

        A name is the end of a path, with or without its extension: ``movie101``, ``1_plotQA/movie101.mp4``, also where the path
        begins above the folder, as ``clips/movie101.mp4`` of a folder ``clips`` does. One that begins with
        ``./`` is the whole path below the folder; an absolute one is taken as it is.

        Raises:
            DataError: if there is none, or several that the names do not tell apart.
        """
        for name in names:
            if Path(name).is_absolute() and Path(name).is_file():
                return Path(name)
            found = self._matching(name)
            if len(found) > 1:
                raise DataError(f"several files for {name!r}: {', '.join(map(str, sorted(found)))}")
            if found:
                return self.folder / found[0]
        raise DataError(f"no such file below {self.folder}{self._elsewhere(names[0])}")

    def _elsewhere(self, name: str) -> str:
        """What is called the same, but lies in another folder than the name says."""
        path = PurePosixPath(name)
        stem = path.stem if path.suffix.lower() in EXTENSIONS else path.name
        found = sorted(map(str, self._by_stem.get(stem, [])))
        return f", but {found[0]} is there" if found else ""

    def _matching(self, name: str) -> list[PurePosixPath]:
        path = PurePosixPath(name)
        exact = path.suffix.lower() in EXTENSIONS
        stem = path.stem if exact else path.name
        found = self._by_stem.get(stem, [])
        parents = path.parts[:-1]
        if name.startswith("./"):
            found = [file for file in found if file.parts[:-1] == parents]
        elif parents:
            below = [file for file in found if file.parts[:-1][-len(parents) :] == parents]
            above = self.folder.absolute().parts
            found = below or [file for file in found if (*above, *file.parts[:-1])[-len(parents) :] == parents]
        same = [file for file in found if file.name == path.name]
        return same if exact and same else found
