"""One contract for every family of reference LMMs: the shared path gives the scores of the family's own model call."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plain_families import INSTRUCTION, plain_scores, question_text, video_llama_3_inputs
from refocus_video.errors import ReferenceModelError
from refocus_video.reference import prefix
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference.families import FAMILIES, kept_tokens
from refocus_video.reference.huggingface import AnswerMode, HuggingFaceReference, Row
from refocus_video.reference.tiny import words_of
from refocus_video.reference.tiny_families import Shape, family_tokenizer, tiny_model
from refocus_video.types import ByteArray, Question

FRAMES = 6
TIMES = [2.5 * i for i in range(FRAMES)]  # two digits before the point from the fifth on: texts of several lengths
QUESTIONS = [
    Question("Which card is red?", ("the first card", "card", "no card at all", "the last")),
    Question("Is it?", ("yes", "no")),
]
SUBSETS = torch.tensor([[0, 1, 4], [1, 2, 3], [0, 1, 4], [0, 1, 5], [3, 4, 5]])
WORDS = [
    INSTRUCTION,
    "A. B. C. D. E. user assistant system You are a helpful assistant. Frame : , Time s seconds < > ' -",
]
WORDS += ["one two three five provided the following series of frames from a [H:MM:SS] video Frame from 00:12:"]
WORDS += [text for question in QUESTIONS for text in (question.text, *question.options)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return family_tokenizer(words_of(WORDS))


@pytest.fixture(scope="module", params=FAMILIES)
def reference(request: pytest.FixtureRequest, tokenizer: Any) -> HuggingFaceReference:
    torch.manual_seed(0)
    return HuggingFaceReference(tiny_model(request.param, tokenizer), tokenizer, frame_size=(32, 32))


@pytest.fixture(params=["letters", "words"])
def mode(request: pytest.FixtureRequest, reference: HuggingFaceReference) -> AnswerMode:
    reference.answer_mode = request.param
    return reference.answer_mode


@pytest.fixture(scope="module")
def pictures() -> ByteArray:
    """Noise; frames 1 and 4 repeat three and four quarters of the frame that is shown before them in some subsets."""
    made = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 32, 3), dtype=np.uint8)
    made[1, :, 16:], made[1, :16] = made[0, :, 16:], made[0, :16]
    made[4] = made[1]
    return made


def _request(features: Any, question: Question, subsets: Tensor = SUBSETS) -> ScoreRequest:
    return ScoreRequest(features, torch.tensor(TIMES, dtype=torch.float64), question, subsets)


def _plain(
    reference: HuggingFaceReference, pictures: ByteArray, question: Question, subsets: Sequence[Any], mode: str
) -> Tensor:
    kind = reference.model.config.model_type
    return torch.stack(
        [
            plain_scores(kind, reference.model, reference.tokenizer, pictures, TIMES, question, subset, mode)
            for subset in subsets
        ]
    )


def test_scores_are_those_of_the_plain_model_call(
    reference: HuggingFaceReference, pictures: ByteArray, mode: AnswerMode
) -> None:
    pairs, alone = torch.tensor([[0, 5], [1, 4]]), torch.tensor([[4]])
    asked = [(QUESTIONS[0], SUBSETS), (QUESTIONS[1], pairs), (QUESTIONS[1], alone), (QUESTIONS[1], SUBSETS[1:])]
    features = reference.encode(pictures)
    found = reference.score([_request(features, question, subsets) for question, subsets in asked])
    for (question, subsets), scores in zip(asked, found, strict=True):
        expected = _plain(reference, pictures, question, subsets.tolist(), mode)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=0)
    assert (found[0][1] - found[0][4]).abs().max() > 1e-2  # the frames matter, so the comparison means something


def test_leading_frames_in_common_are_read_once_and_change_nothing(
    reference: HuggingFaceReference, pictures: ByteArray, mode: AnswerMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = reference.encode(pictures)
    requests = [_request(features, question) for question in QUESTIONS]
    expected = reference.score(requests)
    monkeypatch.setattr(prefix, "SHORT", 0)
    monkeypatch.setattr(prefix, "CALL_TOKENS", 1)
    monkeypatch.setattr("refocus_video.reference.huggingface.SHORT", 0)
    before = reference.work.shared_tokens
    torch.testing.assert_close(reference.score(requests), expected, atol=1e-5, rtol=0)
    assert reference.work.shared_tokens > before + 2 * 4  # at least the two frames that three subsets begin with


def test_each_frame_that_is_needed_is_encoded_once(
    reference: HuggingFaceReference, pictures: ByteArray, mode: AnswerMode
) -> None:
    whole = [_request(reference.encode(pictures), question, SUBSETS[2:]) for question in QUESTIONS]
    expected = reference.score(whole)
    before = reference.work.frames
    cache = reference.cache(pictures)
    assert cache.encoded == 0
    found = reference.score([_request(cache, question, SUBSETS[2:]) for question in QUESTIONS])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    needed = len(set(SUBSETS[2:].flatten().tolist()))
    assert cache.encoded == reference.work.frames - before == needed == 5
    reference.score([_request(cache, QUESTIONS[0])])
    assert cache.encoded == FRAMES
    reference.score([_request(cache, QUESTIONS[0])])
    assert reference.work.frames - before == FRAMES


def test_the_model_is_told_the_true_times(
    reference: HuggingFaceReference, pictures: ByteArray, mode: AnswerMode
) -> None:
    """The same pictures, taken at other times."""
    features = reference.encode(pictures)
    subset, times = torch.tensor([[0, 2, 3]]), torch.tensor(TIMES)
    early, late = (
        reference.score([ScoreRequest(features, t, QUESTIONS[0], subset)])[0]
        for t in (times, torch.cat((times[:3], times[3:] + 11.0)))
    )
    differs = bool((early - late).abs().max() > 1e-4)
    assert differs == reference.family.time_matters


def test_evenly_spaced_frames_have_the_positions_of_the_model_itself(
    reference: HuggingFaceReference, pictures: ByteArray
) -> None:
    if reference.family.rope == "text":
        pytest.skip("this family counts tokens")
    reference.answer_mode = "letters"
    every = torch.arange(FRAMES)[None]
    request = _request(reference.encode(pictures), QUESTIONS[0], every)
    rows = list(reference._rows(request, every, [[1]]))
    (ready,) = reference._maker.ready(rows)
    ids = torch.tensor([ready.ids])
    kinds = (ids == reference._maker.placeholder_id).int() * 2
    grid = {"video_grid_thw": torch.tensor([[FRAMES, 4, 4]])}
    if reference.family.rope == "seconds":
        grid["second_per_grid_ts"] = torch.tensor([2.5])
    official, _ = reference.model.model.get_rope_index(input_ids=ids, mm_token_type_ids=kinds, **grid)
    found = reference._maker.positions(ready)
    assert found is not None
    assert torch.equal(found, official[:, 0])


def test_what_does_not_fit_is_halved(
    reference: HuggingFaceReference, pictures: ByteArray, mode: AnswerMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [_request(reference.encode(pictures), question) for question in QUESTIONS]
    expected = reference.score(requests)
    small = HuggingFaceReference(reference.model, reference.tokenizer, answer_mode=mode, frame_size=(32, 32))
    forward, seen = small._forward, small.visual_tokens

    def narrow(rows: Any, **given: Any) -> Tensor:
        if len(rows) > 1:
            raise torch.OutOfMemoryError
        return forward(rows, **given)

    def short_sighted(frames: ByteArray) -> Tensor:
        if len(frames) > 2:
            raise torch.OutOfMemoryError
        return seen(frames)

    monkeypatch.setattr(small, "_forward", narrow)
    monkeypatch.setattr(small, "visual_tokens", short_sighted)
    torch.testing.assert_close(small.encode(pictures), reference.encode(pictures), atol=1e-5, rtol=0)
    torch.testing.assert_close(small.score(requests), expected, atol=1e-5, rtol=0)
    assert small._frames_at_once.size <= 3
    if small.family.columns != "patches":  # these rows all have lengths of their own, and run alone anyway
        assert small._tokens_at_once.halvings > 0

    def blind(frames: ByteArray) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(small, "visual_tokens", blind)
    with pytest.raises(ReferenceModelError, match="out of memory with a single one of the reference model's frames"):
        small.encode(pictures)


def test_more_frames_than_the_context_are_refused(tokenizer: Any, pictures: ByteArray) -> None:
    model = tiny_model("internvl", tokenizer, Shape(context=64))
    reference = HuggingFaceReference(model, tokenizer)
    with pytest.raises(
        ReferenceModelError, match=r"6 frames and the question are \d+ tokens, 24 of them .* at most 64"
    ):
        reference.score([_request(reference.encode(pictures), QUESTIONS[0], torch.arange(6)[None])])


def test_letters_that_the_tokenizer_cannot_name_are_refused(reference: HuggingFaceReference) -> None:
    reference.answer_mode = "letters"
    with pytest.raises(ReferenceModelError, match=r"6 options need .*A to F.* own for F; give at most 5"):
        reference.option_tokens(Question("Which?", tuple("uvwxyz")))


def test_video_llama_3_keeps_the_tokens_that_the_official_processor_keeps(pictures: ByteArray) -> None:
    official = video_llama_3_inputs(pictures[[0, 1, 4, 2]])
    levels = ((official["pixel_values_videos"] / 2 + 0.5) * 255).round().view(4, 4, -1)
    kept = kept_tokens(levels)
    assert torch.equal(kept.flatten(), official["video_compression_mask"])
    assert kept.sum(-1).tolist() == [4, 1, 1, 4]


def test_the_text_of_a_question_is_the_same_for_all(reference: HuggingFaceReference, mode: AnswerMode) -> None:
    assert reference.text(QUESTIONS[0]) == question_text(QUESTIONS[0], mode)


def _row(reference: HuggingFaceReference, request: ScoreRequest, subset: Tensor, tokens: tuple[int, ...] = ()) -> Row:
    text = reference.text(request.question)
    return Row(request.features, request.times[subset].tolist(), text, tokens, subset, 0, TIMES[-1])


def test_a_written_answer_is_the_likeliest_token_each_time(
    reference: HuggingFaceReference, pictures: ByteArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference.answer_mode = "letters"
    monkeypatch.setattr(HuggingFaceReference, "_ends", frozenset())
    placeholder = reference.tokenizer.convert_tokens_to_ids(reference.family.placeholder)
    requests = [_request(reference.encode(pictures), question) for question in QUESTIONS]
    written = reference.generate(requests, 3)
    compared = 0
    for request, texts in zip(requests, written, strict=True):
        for subset, text in zip(SUBSETS, texts, strict=True):
            tokens: tuple[int, ...] = ()
            # Without anything kept from the token before; random weights may write a placeholder, which no row can hold.
            while len(tokens) < 3 and placeholder not in tokens:
                tokens += (int(reference.next_token_logits([_row(reference, request, subset, tokens)]).argmax()),)
            assert text.startswith(reference.tokenizer.decode(list(tokens), skip_special_tokens=True).strip())
            compared += len(tokens)
    assert compared > 10


def test_an_answer_ends_where_the_model_ends_it(
    reference: HuggingFaceReference, pictures: ByteArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference.answer_mode = "letters"
    request = _request(reference.encode(pictures), QUESTIONS[0], SUBSETS[:1])
    first = int(reference.next_token_logits([_row(reference, request, SUBSETS[0])]).argmax())
    monkeypatch.setattr(reference.model.generation_config, "eos_token_id", [first])
    assert reference.generate([request], 5) == [[""]]


def test_the_length_of_a_video_is_told_where_the_family_tells_it(
    reference: HuggingFaceReference, pictures: ByteArray
) -> None:
    request = _request(reference.encode(pictures), QUESTIONS[0])
    unsaid, same, longer = (
        reference.score([replace(request, duration_s=seconds)])[0] for seconds in (None, TIMES[-1], 3599.0)
    )
    assert torch.equal(unsaid, same)
    assert torch.equal(same, longer) == ("{duration}" not in reference.family.before_frames)
