"""A chat-completions server for tests: stdlib only, in a thread, with faults on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


def completion(top: list[tuple[str, float]] | None, *, prompt_tokens: int = 100) -> Body:
    """A reply of one token with these likeliest tokens; None leaves the log-probabilities out."""
    listed = [{"token": token, "logprob": log_prob, "bytes": list(token.encode())} for token, log_prob in top or []]
    logprobs = None if top is None else {"content": [{**listed[0], "top_logprobs": listed}]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "A"}, "logprobs": logprobs}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 1, "total_tokens": prompt_tokens + 1},
    }


@dataclass(frozen=True)
class Fault:
    """What the server does instead of answering one request."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    sleep_s: float = 0.0


@dataclass
class ChatServer:
    """What the tests say to the server, and what it saw."""

    answer: Callable[[Body], Body]
    faults: list[Fault] = field(default_factory=list)
    """Used up one a request, from the front."""
    sleep_s: float = 0.0
    key: str | None = None
    url: str = ""
    bodies: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def reply(self, body: Body, headers: dict[str, str]) -> Fault:
        """Status, body and headers of the reply to one request."""
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            self.arrivals.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            fault = self.faults.pop(0) if self.faults else None
        time.sleep(self.sleep_s + (fault.sleep_s if fault else 0))
        with self._lock:
            self._now -= 1
        given = headers.get("authorization", "")
        if self.key is not None and given != f"Bearer {self.key}":
            return Fault(401, json.dumps({"error": {"message": f"Incorrect API key provided: {given}"}}))
        if fault is not None and not fault.sleep_s:
            return fault
        return Fault(200, json.dumps(self.answer(body)))


@contextmanager
def serving(answer: Callable[[Body], Body], **settings: Any) -> Iterator[ChatServer]:
    """A running server."""
    state = ChatServer(answer, **settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = state.reply(body, {name.lower(): value for name, value in self.headers.items()})
            content = reply.body.encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client did not wait

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
