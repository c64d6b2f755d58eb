"""Sends requests to an OpenAI-compatible server, and tries again where that can help.

The key comes from an environment variable, goes into the request's header, and nowhere else: what a server says is searched for
it before it is shown.
"""

import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from refocus_video.config import EndpointConfig
from refocus_video.errors import ConfigError, QuestionError, ServiceError, one_line
from refocus_video.reference.endpoint.replies import MalformedReplyError, Reply

LONGEST_WAIT_S = 600.0
"""A server that asks to be left alone for longer ends the run; the cache keeps what was answered so far."""

OF_THE_REQUEST = (400, 413, 422)
"""Statuses by which a server says that one request is wrong: too long, a picture it cannot read."""

MOST_BYTES = 16 * 10**6
"""Of a reply: one with the likeliest tokens of a long text has some hundred kilobytes."""


class _TooMuchError(Exception):
    """A reply that goes on for too long."""


class EndpointClient:
    """One server. May be used by many threads."""

    def __init__(self, config: EndpointConfig) -> None:
        """Nothing is sent.

        Raises:
            ConfigError: if the HTTP library is missing, or the key cannot be one.
        """
        try:
            import httpx2
        except ImportError:
            raise ConfigError(
                "reference.endpoint needs the package httpx2; install it with: pip install 'refocus-video[endpoint]'"
            ) from None
        self._http = httpx2
        self.config = config
        self._key = os.environ.get(config.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(f"the environment variable {config.api_key_env} holds characters that no key has")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=config.concurrency)
        self._client = httpx2.Client(headers=headers, timeout=config.timeout_s, limits=limits)
        self._answered = False
        self._served = False
        self._stopped = threading.Event()

    def ask(self, body: dict[str, Any]) -> tuple[Reply, int]:
        """The reply to one chat completion, and how often it had to be tried again.

        Raises:
            QuestionError: if a server that has answered others says that this request is wrong.
            ServiceError: if the server refuses, or still fails after ``max_retries``.
        """
        for tried in range(self.config.max_retries + 1):
            trouble, asked_wait = "", None
            try:
                status, headers, content = self._post(body)
            except (_TooMuchError, self._http.TimeoutException) as error:
                cut = isinstance(error, _TooMuchError)
                trouble = str(error) if cut else f"no reply within {self.config.timeout_s:g} s"
            except self._http.TransportError as error:
                trouble = f"no connection ({one_line(error) or type(error).__name__})"
                if not self._answered:
                    raise self._error(f"{trouble}; is the server running there?") from None
            else:
                self._answered = True
                text = content.decode("utf-8", errors="replace")
                if status == 200:
                    try:
                        reply = Reply.parse(json.loads(content))
                        self._served = True
                        return reply, tried
                    except (MalformedReplyError, ValueError, RecursionError):
                        trouble = f"a reply that is not a chat completion: {text[:100]!r}"
                elif status in (408, 429) or status >= 500:
                    trouble = f"status {status}: {_message(text)}"
                    asked_wait = retry_after(headers.get("retry-after"), time.time())
                else:
                    refused = self._refused(status, _message(text))
                    # Before the first answer it is the model's name or a setting that is wrong, not the question.
                    raise QuestionError(str(refused)) if status in OF_THE_REQUEST and self._served else refused
            if tried == self.config.max_retries:
                break
            wait = pause(tried, asked_wait, random.random())
            if wait > LONGEST_WAIT_S:
                raise self._error(f"{trouble}; it asks to wait for {wait:.0f} s")
            if self._wait(wait):
                break
        raise self._error(f"{trouble} (tried {tried + 1} time{'s' * (tried > 0)})")

    def _post(self, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and content of the reply, whose content must come in ``timeout_s`` and :data:`MOST_BYTES`."""
        end = time.monotonic() + self.config.timeout_s
        content = bytearray()
        with self._client.stream("POST", f"{self.config.url}/chat/completions", json=body) as response:
            for part in response.iter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise _TooMuchError(f"a reply of more than {MOST_BYTES // 10**6} MB")
                if (
                    time.monotonic() > end
                ):  # the library's limit is for each read: a byte now and then would go on for ever
                    raise _TooMuchError(f"no whole reply within {self.config.timeout_s:g} s")
        return response.status_code, response.headers, bytes(content)

    def stop(self) -> None:
        """Make the requests that wait for another try give up."""
        self._stopped.set()

    def resume(self) -> None:
        """Let requests wait again."""
        self._stopped.clear()

    def _wait(self, seconds: float) -> bool:
        """Whether the wait was cut short by :meth:`stop`."""
        return self._stopped.wait(seconds)

    def _refused(self, status: int, message: str) -> ServiceError:
        if status not in (401, 403):
            return self._error(f"status {status}: {message}")
        name = self.config.api_key_env
        found = "was refused" if self._key else "is not set"
        return self._error(f"status {status}: the key in the environment variable {name} {found}")

    def _error(self, text: str) -> ServiceError:
        shown = text.replace(self._key, "[key]") if self._key else text
        return ServiceError(f"endpoint {self.config.url}: {shown}")


def pause(tried: int, asked_s: float | None, chance: float) -> float:
    """Seconds to wait before another try.

    What the server asked for and up to half a second more; else half a second, doubled with every try up to 30 s, of which the
    last half is left to chance, so that many clients do not come back at once.

    Args:
        tried: how many tries have failed before this one.
        asked_s: what the server asked for.
        chance: a random number from 0 to 1.
    """
    if asked_s is not None:
        return asked_s + chance / 2
    return min(30.0, 0.5 * 2.0**tried) * (0.5 + chance / 2)


def retry_after(header: str | None, now_s: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given as a number or a date; None if it says neither."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now_s)
    except ValueError:
        return None


def _message(text: str) -> str:
    """What an error's body says: the protocol's message where it has one."""
    try:
        document = json.loads(text)
        error = document.get("error", document)
        text = error["message"] if isinstance(error, dict) else str(error)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        pass
    return one_line(text) or "no reason given"
