"""Replies kept on disk under the hash of what was asked, pictures included: asking again costs nothing.

One small JSON file a reply, written whole or not at all, so any number of processes can share a folder. Nothing of the request
but its hash is kept, and no key.
"""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from refocus_video.errors import RefocusWarning, one_line
from refocus_video.files import cache_folder, write_text
from refocus_video.reference.endpoint.replies import Reply


def request_key(url: str, body: dict[str, Any]) -> str:
    """The name of one request to one server."""
    content = json.dumps([url, body], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


class ReplyCache:
    """A folder of replies."""

    def __init__(self, folder: Path | None = None) -> None:
        """Replies in ``folder``; ``$REFOCUS_CACHE/endpoint`` by default, see :func:`refocus_video.files.cache_folder`."""
        self.folder = cache_folder("endpoint") if folder is None else folder

    def get(self, key: str) -> Reply | None:
        """The reply to a request; None if it was not asked yet, or its file cannot be read."""
        try:
            return Reply.from_json(json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply; where that cannot be done, a warning says so, once for a folder and reason."""
        try:
            write_text(self._path(key), json.dumps(reply.to_json()))  # in ASCII: a token may be half a character
        except OSError as error:
            warnings.warn(
                f"cannot keep replies in {self.folder} ({one_line(error)}); going on without, and paying again for what is "
                "asked again",
                RefocusWarning,
                stacklevel=2,
            )

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
