"""An LMM behind a server: what is sent, what is read from the replies, and everything that can go wrong on the way."""

import base64
import io
import json
import math
import multiprocessing
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from chat_server import Body, ChatServer, Fault, completion, serving
from refocus_video.cli.main import app
from refocus_video.config import EndpointConfig, ReferenceConfig, RunConfig
from refocus_video.data.examples import read_examples, write_examples
from refocus_video.errors import ConfigError, ReferenceModelError, RefocusWarning, ServiceError
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference.endpoint.cache import ReplyCache, request_key
from refocus_video.reference.endpoint.client import LONGEST_WAIT_S, EndpointClient, pause, retry_after
from refocus_video.reference.endpoint.messages import chat_body
from refocus_video.reference.endpoint.model import EndpointReference
from refocus_video.reference.endpoint.pictures import from_row, to_rows
from refocus_video.reference.endpoint.replies import MalformedReplyError, Reply, option_log_probs
from refocus_video.reference.letters import INSTRUCTION
from refocus_video.types import ByteArray, Question

QUESTION = Question("Which card is red?", ("the first", "the second", "the third"))
KEY = "sk-very-secret-0123456789"
TIMES = torch.arange(8, dtype=torch.float64) * 1.5


@pytest.fixture
def pictures() -> ByteArray:
    """Eight frames of one grey each, so that a frame is known by its brightness whatever JPEG does to it."""
    greys = (np.arange(8) * 30).astype(np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (8, 16, 24, 3)).copy()


def _positions(body: Body) -> list[int]:
    """Which of the grey frames a request shows."""
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    files = [base64.b64decode(url.partition(",")[2]) for url in urls]
    return [round(float(np.asarray(Image.open(io.BytesIO(file))).mean()) / 30) for file in files]


def _by_frames(body: Body) -> Body:
    """An answer that depends on the frames alone: the first option gains by the sum of the positions."""
    return completion([("A", -1.0 + 0.1 * sum(_positions(body))), (" B", -2.0), ("C", -3.0), ("the", -9.0)])


def _reference(server: ChatServer, tmp_path: Path, **settings: Any) -> EndpointReference:
    values = {"url": server.url, "image_size": (16, 24), "cache": str(tmp_path / "cache"), "max_retries": 3}
    return EndpointReference("some-model", EndpointConfig.model_validate(values | settings))


def _request(reference: EndpointReference, pictures: ByteArray, subsets: Sequence[Sequence[int]]) -> ScoreRequest:
    return ScoreRequest(reference.encode(pictures), TIMES, QUESTION, torch.tensor(subsets))


def _fast(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted instead of waited."""
    waits: list[float] = []

    def wait(self: EndpointClient, seconds: float) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(EndpointClient, "_wait", wait)
    return waits


# ------------------------------------------------------------------ what is sent and read


def test_scores_are_the_letters_log_probabilities_in_the_order_asked(pictures: ByteArray, tmp_path: Path) -> None:
    subsets = [[0, 1], [4, 6], [1, 2], [0, 7], [2, 3]]
    with serving(_by_frames) as server:
        reference = _reference(server, tmp_path)
        two = [_request(reference, pictures, subsets), _request(reference, pictures, subsets[::-1])]
        first, second = reference.score(two)
    assert first.dtype == torch.float32
    expected = torch.tensor([[-1 + 0.1 * sum(subset), -2.0, -3.0] for subset in subsets])
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected.flip(0))


def test_a_request_shows_the_frames_with_their_true_times_then_the_question(
    pictures: ByteArray, tmp_path: Path
) -> None:
    with serving(_by_frames) as server:
        reference = _reference(server, tmp_path, extra_body={"seed": 7, "top_logprobs": 5})
        reference.score([_request(reference, pictures, [[2, 5]])])
    (body,) = server.bodies
    content = body.pop("messages")[0]["content"]
    assert [part.get("text") for part in content[::2]] == [
        "Frame at 3.0 s:",
        "Frame at 7.5 s:",
        f"Which card is red?\nA. the first\nB. the second\nC. the third\n{INSTRUCTION}",
    ]
    assert body == {
        "model": "some-model",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 5,
        "seed": 7,
    }


def test_no_frames_are_a_question_alone(pictures: ByteArray, tmp_path: Path) -> None:
    with serving(lambda _: completion([("A", -1.0)])) as server:
        reference = _reference(server, tmp_path)
        features = reference.encode(pictures)
        reference.score([ScoreRequest(features, TIMES, QUESTION, torch.zeros(1, 0, dtype=torch.long))])
    assert [part["type"] for part in server.bodies[0]["messages"][0]["content"]] == ["text"]


def test_the_video_form_lists_the_frames_and_tells_their_times() -> None:
    body = chat_body(
        "m",
        [b"one", b"two"],
        [0.25, 61.5],
        "?",
        frames_as="video",
        media_type="image/jpeg",
        top_logprobs=20,
        extra={},
    )
    video, text = body["messages"][0]["content"]
    form, _, listed = video["video_url"]["url"].partition(",")
    assert form == "data:video/jpeg;base64"
    assert [base64.b64decode(part) for part in listed.split(",")] == [b"one", b"two"]
    told = body["media_io_kwargs"]["video"]
    assert [index / told["fps"] for index in told["frames_indices"]] == [0.25, 61.5]
    assert (told["num_frames"], told["total_num_frames"]) == (-1, 61501)
    assert text == {"type": "text", "text": "?"}


def test_a_subset_that_is_asked_about_twice_is_sent_once(pictures: ByteArray, tmp_path: Path) -> None:
    with serving(_by_frames) as server:
        reference = _reference(server, tmp_path)
        features = reference.encode(pictures)
        subsets = torch.tensor([[0, 1], [4, 6], [0, 1]])
        one, two = reference.score([ScoreRequest(features, TIMES, QUESTION, s) for s in (subsets, subsets[1:])])
    assert len(server.bodies) == 2
    assert torch.equal(one[1:], two)


def test_pictures_travel_through_a_tensor_unchanged() -> None:
    files = [b"", b"a", bytes(range(256)) * 3]
    rows = to_rows(files)
    assert (rows.dtype, rows.shape) == (torch.uint8, (3, 4 + 768))
    assert [from_row(row) for row in rows] == files
    assert to_rows([]).shape == (0, 4)


def test_a_png_is_the_frame_exactly(pictures: ByteArray, tmp_path: Path) -> None:
    with serving(_by_frames) as server:
        reference = _reference(server, tmp_path, image_format="png")
        files = [from_row(row) for row in reference.encode(pictures)]
        reference.score([_request(reference, pictures, [[1]])])
    assert np.array_equal(np.stack([np.asarray(Image.open(io.BytesIO(f))) for f in files]), pictures)
    assert server.bodies[0]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")


def test_tokens_that_differ_by_spaces_count_together() -> None:
    top = (("A", math.log(0.3)), (" A", math.log(0.2)), ("▁B", math.log(0.1)), ("ĠB", math.log(0.05)), ("And", -4.0))
    values, missing = option_log_probs(top, 2)
    assert values == pytest.approx([math.log(0.5), math.log(0.15)])
    assert missing == 0


def test_a_letter_that_is_not_listed_gets_the_bound_and_is_counted(pictures: ByteArray, tmp_path: Path) -> None:
    with serving(lambda _: completion([("B", -0.5), ("a", -2.0), ("The", -3.5)])) as server:
        reference = _reference(server, tmp_path)
        (scores,) = reference.score([_request(reference, pictures, [[0]])])
    assert scores.tolist() == [[-3.5, -0.5, -3.5]]
    assert (reference.used.missing_letters, reference.used.unanswered) == (2, 0)


def test_an_impossible_letter_stays_finite_enough_to_compare() -> None:
    assert option_log_probs((("A", 0.0), ("B", -9999.0)), 2) == ([0.0, -9999.0], 0)
    reply = Reply.parse(completion([("A", 0.0), ("B", -math.inf)]))
    assert option_log_probs(reply.top, 2) == ([0.0, -9999.0], 0)
    with pytest.raises(ValueError, match="not a chat completion"):
        Reply.parse(completion([("A", math.nan)]))


# ------------------------------------------------------------------ cost, cache, concurrency


def test_a_second_run_asks_nothing_and_scores_the_same(pictures: ByteArray, tmp_path: Path) -> None:
    subsets = [[0, 1], [4, 6], [1, 2]]
    prices = {"price_per_million_in": 2.0, "price_per_million_out": 10.0}
    with serving(_by_frames) as server:
        first = _reference(server, tmp_path, **prices)
        (scores,) = first.score([_request(first, pictures, subsets)])
        again = _reference(server, tmp_path, **prices)
        (same,) = again.score([_request(again, pictures, subsets)])
        assert len(server.bodies) == 3
        other = pictures.copy()
        other[6] = 250
        again.score([_request(again, other, subsets)])
        assert len(server.bodies) == 4  # only the subset with the changed picture
    assert torch.equal(scores, same)
    assert first.usage["cost"] == pytest.approx((300 * 2 + 3 * 10) / 1e6)
    assert {k: again.usage[k] for k in ("requests", "cached", "prompt_tokens")} == {
        "requests": 6,
        "cached": 5,
        "prompt_tokens": 100,
    }


def test_another_model_server_or_setting_is_another_request() -> None:
    body = {"model": "m", "messages": [], "temperature": 0}
    keys = {
        request_key(url, body | change)
        for url in ("http://a/v1", "http://b/v1")
        for change in ({}, {"model": "n"}, {"temperature": 1})
    }
    assert len(keys) == 6
    assert request_key("u", {"a": 1, "b": 2}) == request_key("u", {"b": 2, "a": 1})


def test_a_damaged_reply_is_asked_for_again(pictures: ByteArray, tmp_path: Path) -> None:
    with serving(_by_frames) as server:
        reference = _reference(server, tmp_path)
        request = _request(reference, pictures, [[3]])
        (scores,) = reference.score([request])
        (kept,) = (tmp_path / "cache").rglob("*.json")
        for damage in ("", "{", "[]", '{"top": [{"token": "A"}], "prompt_tokens": 1, "completion_tokens": 1}'):
            kept.write_text(damage, encoding="utf-8")
            (again,) = reference.score([request])
            assert torch.equal(again, scores)
    assert len(server.bodies) == 5


def _put_many(folder: str) -> None:
    cache = ReplyCache(Path(folder))
    for i in range(150):
        cache.put(request_key("u", {"i": i % 5}), Reply((("A" * 2000, -float(i % 5)),), i % 5, 1))


def test_processes_share_a_cache_without_half_written_files(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_put_many, args=(str(tmp_path),)) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        for i in range(5):
            key = request_key("u", {"i": i})
            if (tmp_path / key[:2] / f"{key}.json").exists():
                reply = cache.get(key)
                assert reply is not None and reply.prompt_tokens == i
                seen += 1
    assert seen
    assert len(list(tmp_path.rglob("*"))) == len({request_key("u", {"i": i})[:2] for i in range(5)}) + 5


def test_requests_run_side_by_side_but_never_more_than_allowed(pictures: ByteArray, tmp_path: Path) -> None:
    subsets = [[i, j] for i in range(8) for j in range(i + 1, 8)][:24]
    with serving(_by_frames, sleep_s=0.02) as server:
        reference = _reference(server, tmp_path, concurrency=4)
        (scores,) = reference.score([_request(reference, pictures, subsets)])
    assert server.most_at_once == 4
    torch.testing.assert_close(scores[:, 0], torch.tensor([-1 + 0.1 * sum(subset) for subset in subsets]))


# ------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    "fault",
    [
        Fault(429, '{"error": {"message": "slow down"}}', {"Retry-After": "7"}),
        Fault(500, "oops"),
        Fault(503, "", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Fault(200, '{"choices": [{"logp'),
        Fault(200, '{"choices": []}'),
        Fault(200, "[1, 2]"),
        Fault(200, "", sleep_s=0.5),
    ],
    ids=["429", "500", "503", "half-a-reply", "no-choice", "a-list", "timeout"],
)
def test_a_passing_fault_is_waited_out(
    fault: Fault, pictures: ByteArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = _fast(monkeypatch)
    with serving(_by_frames, faults=[fault, fault]) as server:
        reference = _reference(server, tmp_path, timeout_s=0.2)
        (scores,) = reference.score([_request(reference, pictures, [[1, 2]])])
    torch.testing.assert_close(scores[0, 0].item(), -0.7)
    assert (len(server.bodies), reference.used.retries, len(waits)) == (3, 2, 2)
    if fault.status == 429:
        assert all(7 <= wait <= 7.5 for wait in waits)
    else:
        assert 0 <= waits[0] <= 0.5
        assert waits[1] <= 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(500, '{"error": {"message": "out of\\nmemory"}}'), r"status 500: out of memory \(tried 4 times\)"),
        (Fault(429, '{"message": "quota used up"}'), r"status 429: quota used up \(tried 4 times\)"),
        (Fault(200, "<html>"), r"a reply that is not a chat completion: '<html>' \(tried 4 times\)"),
        (Fault(200, "", sleep_s=0.5), r"no reply within 0.1 s \(tried 4 times\)"),
        (Fault(429, "", {"Retry-After": "86400"}), r"it asks to wait for 8640[01] s"),
        (Fault(400, '{"error": "at most 1 image"}'), r"status 400: at most 1 image$"),
        (Fault(404, '{"error": {"message": "no model some-model"}}'), r"status 404: no model some-model$"),
        (Fault(404, ""), r"status 404: no reason given$"),
    ],
)
def test_a_lasting_fault_is_one_line(
    fault: Fault, said: str, pictures: ByteArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fast(monkeypatch)
    with serving(_by_frames, faults=[fault] * 4) as server:
        reference = _reference(server, tmp_path, timeout_s=0.1)
        with pytest.raises(ReferenceModelError, match=said) as error:
            reference.score([_request(reference, pictures, [[1]])])
        assert server.url in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.json"))


def test_waiting_is_really_waiting(pictures: ByteArray, tmp_path: Path) -> None:
    with serving(_by_frames, faults=[Fault(429, "", {"Retry-After": "0.3"})]) as server:
        reference = _reference(server, tmp_path)
        reference.score([_request(reference, pictures, [[1]])])
    assert server.arrivals[1] - server.arrivals[0] >= 0.3


def test_the_first_error_ends_the_requests_that_still_wait(pictures: ByteArray, tmp_path: Path) -> None:
    refused = Fault(400, '{"error": "no"}')
    busy = Fault(503, "", {"Retry-After": "300"})
    with serving(_by_frames, faults=[refused, busy, busy, busy]) as server:
        reference = _reference(server, tmp_path, concurrency=4)
        begun = time.monotonic()
        with pytest.raises(ReferenceModelError, match="status"):
            reference.score([_request(reference, pictures, [[i] for i in range(8)])])
    assert time.monotonic() - begun < 30


def test_a_server_without_log_probabilities_is_one_line(pictures: ByteArray, tmp_path: Path) -> None:
    for reply in (completion(None), completion(None) | {"usage": None}):
        with serving(lambda _, reply=reply: reply) as server:  # type: ignore[misc]
            reference = _reference(server, tmp_path)
            with pytest.raises(ReferenceModelError, match=r"'some-model' gives no log-probabilities \(top_logprobs\)"):
                reference.score([_request(reference, pictures, [[1]])])
        assert len(server.bodies) == 1


def test_a_written_answer_needs_no_log_probabilities(pictures: ByteArray, tmp_path: Path) -> None:
    def write(body: Body) -> Body:
        reply = completion(None)
        reply["choices"][0]["message"]["content"] = f"{len(_positions(body))} frames, {body['max_tokens']} tokens"
        return reply

    with serving(write) as server:
        reference = _reference(server, tmp_path)
        requests = [_request(reference, pictures, [[1], [2]]), _request(reference, pictures, [[1, 3], [1, 2]])]
        opened = replace(requests[0], question=Question("What is it?"), texts=())
        for _ in range(2):
            written = reference.generate([*requests, opened], 7)
            assert written == [["1 frames, 7 tokens"] * 2, ["2 frames, 7 tokens"] * 2, ["1 frames, 7 tokens"] * 2]
        assert len(server.bodies) == 6  # the second time all came from the cache
    assert not any("logprobs" in body for body in server.bodies)
    assert {body["messages"][0]["content"][-1]["text"] for body in server.bodies} >= {"What is it?"}


def test_a_model_that_never_names_a_letter_is_noticed(pictures: ByteArray, tmp_path: Path) -> None:
    subsets = [[i, j] for i in range(8) for j in range(i + 1, 8)]
    with serving(lambda _: completion([("<think>", -0.01), ("Okay", -6.0)])) as server:
        reference = _reference(server, tmp_path)
        with pytest.raises(ReferenceModelError, match="none of the first 16 replies of 'some-model' begins with"):
            reference.score([_request(reference, pictures, subsets)])


@pytest.mark.parametrize(
    ("part", "pause_s", "said"),
    [(b" " * 10**6, 0.0, "a reply of more than 16 MB"), (b" ", 0.1, "no whole reply within 0.5 s")],
)
def test_a_reply_without_end_is_cut_off(
    part: bytes, pause_s: float, said: str, pictures: ByteArray, tmp_path: Path
) -> None:
    class Endless(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(OSError):  # the client goes away
                for _ in range(1000):
                    self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                    self.wfile.flush()
                    time.sleep(pause_s)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        timeout_s = 0.5 if pause_s else 20.0
        reference = _reference(ChatServer(_by_frames, url=url), tmp_path, timeout_s=timeout_s, max_retries=0)
        begun = time.monotonic()
        with pytest.raises(ServiceError, match=said):
            reference.score([_request(reference, pictures, [[1]])])
        assert time.monotonic() - begun < 15
    finally:
        server.shutdown()
        server.server_close()


def test_nobody_at_the_address_is_told_at_once(pictures: ByteArray, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        reference = _reference(ChatServer(_by_frames, url=url), tmp_path)
        begun = time.monotonic()
        with pytest.raises(ReferenceModelError, match=r"no connection \(.*\); is the server running there\?"):
            reference.score([_request(reference, pictures, [[1], [2]])])
    assert time.monotonic() - begun < 5


def test_a_wrong_or_missing_key_is_one_line_without_the_key(
    pictures: ByteArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(_by_frames, key="another") as server:
        for key, said in ((KEY, "was refused"), ("", "is not set")):
            monkeypatch.setenv("MY_KEY", key)
            reference = _reference(server, tmp_path, api_key_env="MY_KEY")
            with pytest.raises(ReferenceModelError, match=f"status 401: the key in .* MY_KEY {said}$") as error:
                reference.score([_request(reference, pictures, [[1]])])
            assert KEY not in str(error.value)
    assert len(server.bodies) == 2
    monkeypatch.setenv("MY_KEY", "two\nlines")
    with pytest.raises(ConfigError, match="MY_KEY holds characters that no key has"):
        _reference(server, tmp_path, api_key_env="MY_KEY")


def test_the_key_is_sent_and_shown_nowhere(
    pictures: ByteArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    _fast(monkeypatch)
    echo = Fault(400, json.dumps({"error": {"message": f"bad request with Bearer {KEY}"}}))
    with serving(_by_frames, key=KEY, faults=[Fault(500, KEY)]) as server:
        reference = _reference(server, tmp_path, api_key_env="MY_KEY")
        reference.score([_request(reference, pictures, [[1], [2]])])
        server.faults.append(echo)
        with pytest.raises(ReferenceModelError, match=r"bad request with Bearer \[key\]") as error:
            reference.score([_request(reference, pictures, [[3]])])
    assert KEY not in str(error.getrepr())
    assert KEY not in caplog.text
    assert KEY not in repr(reference) + repr(vars(reference)) + json.dumps(reference.usage)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_questions_that_cannot_be_lettered_are_refused(pictures: ByteArray, tmp_path: Path) -> None:
    with serving(_by_frames) as server:
        reference = _reference(server, tmp_path)
        features, subsets = reference.encode(pictures), torch.tensor([[0]])
        many = Question("Which?", tuple(str(i) for i in range(27)))
        with pytest.raises(ReferenceModelError, match=r"lettered A to Z.* has 27"):
            reference.score([ScoreRequest(features, TIMES, many, subsets)])
        with pytest.raises(ReferenceModelError, match="does not tell how likely a given text is"):
            reference.score([ScoreRequest(features, TIMES, Question("Why?"), subsets, ("because",))])
    assert server.bodies == []


# ------------------------------------------------------------------ waiting times and settings


def test_waits_grow_stay_bounded_and_differ() -> None:
    longest = [pause(tried, None, 1.0) for tried in range(12)]
    assert longest[:4] == [0.5, 1.0, 2.0, 4.0]
    assert longest[-1] == 30.0 < LONGEST_WAIT_S
    assert pause(3, None, 0.0) == 2.0
    assert pause(0, 12.0, 0.0) == 12.0 < pause(0, 12.0, 0.5)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("2.5", 0.0) == 2.5
    assert retry_after("-4", 0.0) == 0.0
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 70.0) == 30.0
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 700.0) == 0.0
    assert retry_after("soon", 0.0) is None
    assert retry_after(None, 0.0) is None


def test_a_plain_address_is_enough() -> None:
    overrides = ("reference.endpoint=http://localhost:8000/v1/", "reference.model=Qwen/Qwen3-VL-4B-Instruct")
    found = RunConfig.load(None, overrides).reference
    assert found.endpoint == EndpointConfig(url="http://localhost:8000/v1")
    assert RunConfig.parse(RunConfig(reference=found).model_dump(mode="json"), "saved").reference == found
    detailed = ("reference.endpoint.url=http://localhost:8000/v1", "reference.endpoint.concurrency=4")
    assert RunConfig.load(None, detailed).reference.endpoint == EndpointConfig(
        url="http://localhost:8000/v1", concurrency=4
    )


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("localhost:8000", "must be an address such as http://localhost:8000/v1"),
        (f"http://me:{KEY}@host/v1", "must not hold a key; name its environment variable in api_key_env$"),
        (f"https://host/v1?api_key={KEY}", "must not hold a key; name its environment variable in api_key_env$"),
        ({"url": "http://h/v1", "frames_as": "video", "image_format": "png"}, "is a list of jpeg pictures"),
        (
            {"url": "http://h/v1", "retries": 3},
            r"unknown setting 'endpoint.retries' \(did you mean 'max_retries'\?\); known ones",
        ),
        (
            {"url": "http://h/v1", "api_key_env": "sk-secret-1"},
            "must be the name of an environment variable that holds the key, not",
        ),
        ({"url": "http://h/v1", "concurrency": 0}, "'endpoint.concurrency': .*greater than or equal to 1"),
    ],
)
def test_a_wrong_endpoint_setting_is_one_line(endpoint: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        ReferenceConfig.parse({"endpoint": endpoint}, "settings")
    assert KEY not in str(error.value)


def test_an_endpoint_answers_by_letter() -> None:
    with pytest.raises(ConfigError, match="an endpoint answers by letter: set answer_mode to letters"):
        ReferenceConfig.parse({"endpoint": "http://h/v1", "answer_mode": "words"}, "settings")


def test_the_protocol_of_the_test_server_is_that_of_the_api() -> None:
    """The server is asked without our client."""
    with serving(lambda _: completion([("A", -0.1)])) as server:
        reply = httpx2.post(f"{server.url}/chat/completions", json={"model": "m", "messages": []})
    assert Reply.parse(reply.json()) == Reply((("A", -0.1),), 100, 1, "A")


def test_an_evaluation_at_an_endpoint_costs_nothing_the_second_time(
    haystack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refocus_video.evaluation.write_report", lambda *_, **__: None)  # plots take their time

    def answer(body: Body) -> Body:
        pictures = sum(part["type"] == "image_url" for part in body["messages"][0]["content"])
        return completion([("A", -1.0), ("B", -0.9 - 0.1 * pictures), ("C", -2.0), ("D", -3.0)], prompt_tokens=50)

    questions = tmp_path / "questions.jsonl"
    write_examples(questions, read_examples(haystack / "validation.jsonl")[:3])
    with serving(answer) as server:
        settings = [f"reference.endpoint.url={server.url}", "reference.endpoint.image_size=[32, 32]"]
        settings += ["reference.endpoint.price_per_million_in=1000", f"reference.endpoint.cache={tmp_path / 'cache'}"]
        overrides = [word for text in ("reference.answer_mode=letters", *settings) for word in ("--set", text)]

        def run(output: str) -> tuple[Any, list[str]]:
            words = ["eval", str(questions), "--budgets", "2", "--config", "haystack", *overrides]
            app([*words, "--output", str(tmp_path / output)], standalone_mode=False)
            results = json.loads((tmp_path / output / "results.json").read_text(encoding="utf-8"))
            return results, capsys.readouterr().err.splitlines()

        first, told = run("first")
        (used,) = first["usage"]
        asked = len(server.bodies)
        assert used["requests"] == asked > 8
        assert used["prompt_tokens"] == 50 * asked
        assert told[-1] == (
            f"haystack-tiny at {server.url}: {asked} requests (0 from the cache), {50 * asked} tokens in, {asked} out, "
            f"cost {0.05 * asked:.2f}"
        )
        second, told = run("second")
        assert len(server.bodies) == asked
        assert second["rows"] == first["rows"]
        assert second["usage"][0]["cost"] == 0
        assert f"{asked} requests ({asked} from the cache), 0 tokens in, 0 out" in told[-1]


def test_half_characters_are_kept_and_a_folder_that_cannot_be_written_is_gone_without(tmp_path: Path) -> None:
    cache, reply = ReplyCache(tmp_path / "replies"), Reply((("\ud83d", -0.5),), 3, 1, "\ud83d")
    key = request_key("http://h", {"text": "\ud83d"})
    cache.put(key, reply)
    assert cache.get(key) == reply
    (tmp_path / "file").write_text("in the way")
    blocked = ReplyCache(tmp_path / "file")
    with pytest.warns(RefocusWarning, match=r"cannot keep replies in .*file \(.*\); going on without"):
        blocked.put(key, reply)
    assert blocked.get(key) is None


def test_hostile_numbers_and_nesting_are_no_traceback(pictures: ByteArray, tmp_path: Path) -> None:
    with pytest.raises(MalformedReplyError):
        Reply.parse({"choices": [], "usage": {}})
    reply = completion([("A", -0.1)]) | {"usage": {"prompt_tokens": math.inf, "completion_tokens": 1}}
    with pytest.raises(MalformedReplyError):
        Reply.parse(reply)
    with serving(_by_frames, faults=[Fault(404, "[" * 200_000)]) as server:
        reference = _reference(server, tmp_path, max_retries=0)
        with pytest.raises(ServiceError, match="status 404"):
            reference.score([_request(reference, pictures, [[1]])])
