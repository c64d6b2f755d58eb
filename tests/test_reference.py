"""Reference models: the shared path gives the scores of the plain model call, whatever is batched with what."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refocus_video.data.haystack.world import HOPS, Probe, answer_word, ask, sample_world
from refocus_video.errors import CheckpointError, ReferenceModelError
from refocus_video.reference.base import ScoreRequest, unique_subsets
from refocus_video.reference.huggingface import LETTER_INSTRUCTION, AnswerMode, HuggingFaceReference
from refocus_video.reference.rows import Ready
from refocus_video.reference.tiny import tiny_llava_onevision, tiny_tokenizer, words_of
from refocus_video.train.corpus import Corpus
from refocus_video.train.tiny_reference import (
    Lesson,
    TinyReferenceConfig,
    answering_batch,
    card_labels,
    learn_to_answer,
    new_reference,
)
from refocus_video.types import ByteArray, Question
from refocus_video.video.sampling import candidate_indices

QUESTIONS = [
    Question("Which card is red?", ("the first card", "card", "no card at all", "the last")),
    Question("Is it?", ("yes", "no")),
    Question("Which colour is the last card of all that it shows?", ("red", "red card", "blue")),
]
TEXTS = [LETTER_INSTRUCTION, "A. B. C. D. user assistant Frame 1 2 3 4 5 6 7 8 : img"]
TEXTS += [text for question in QUESTIONS for text in (question.text, *question.options)]
SUBSETS = torch.tensor([[0, 1, 4], [1, 2, 3], [0, 1, 4], [2, 4, 5]])
FRAMES = 6


def _tiny_internvl() -> HuggingFaceReference:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import (
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLVisionConfig,
        PreTrainedTokenizerFast,
        Qwen2Config,
    )

    special = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    words = ["<unk>", *special, *words_of(TEXTS)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<unk>", additional_special_tokens=special
    )
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=[32, 32],
            patch_size=[8, 8],
        ),
        text_config=Qwen2Config(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=None,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return HuggingFaceReference(InternVLForConditionalGeneration(config), tokenizer)


def _tiny_llava() -> HuggingFaceReference:
    tokenizer = tiny_tokenizer(words_of(TEXTS))
    return HuggingFaceReference(tiny_llava_onevision(tokenizer, width=32, layers=2), tokenizer)


@pytest.fixture(scope="module", params=[_tiny_llava, _tiny_internvl], ids=["llava_onevision", "internvl"])
def reference(request: pytest.FixtureRequest) -> HuggingFaceReference:
    torch.manual_seed(0)
    made: HuggingFaceReference = request.param()
    return made


@pytest.fixture(params=["letters", "words"])
def mode(request: pytest.FixtureRequest, reference: HuggingFaceReference) -> AnswerMode:
    reference.answer_mode = request.param
    return reference.answer_mode


def _pictures(seed: int = 0) -> ByteArray:
    return np.random.default_rng(seed).integers(0, 256, (FRAMES, 32, 32, 3), dtype=np.uint8)


def _request(features: Tensor, question: Question, subsets: Tensor = SUBSETS) -> ScoreRequest:
    return ScoreRequest(features, torch.arange(FRAMES) / 4, question, subsets)


def _plain_scores(
    reference: HuggingFaceReference, pictures: ByteArray, question: Question, subset: Sequence[int], mode: AnswerMode
) -> Tensor:
    """Option scores by the model's own call on pixels and token ids, one option and one token at a time."""
    llava = reference.model.config.model_type == "llava_onevision"
    mean, std = ((0.5,) * 3, (0.5,) * 3) if llava else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    shown = (pictures[list(subset)] / 255.0 - np.array(mean)) / np.array(std)
    pixels = torch.from_numpy(shown).permute(0, 3, 1, 2).float()
    text = question.text
    if mode == "letters":
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", question.options, strict=False))
        text = f"{text}\n{listed}\n{LETTER_INSTRUCTION}"
    if llava:
        slots = "<video>" * (4 * len(subset) + 1)
        prompt = f"<|im_start|>user {slots}\n{text}<|im_end|><|im_start|>assistant\n"
    else:
        slots = "".join(f"Frame{i}: <img>{'<IMG_CONTEXT>' * 4}</img>\n" for i in range(1, len(subset) + 1))
        prompt = f"<|im_start|>user\n{slots}{text}<|im_end|>\n<|im_start|>assistant\n"
    ids = reference.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answers = ["A", "B", "C", "D"][: len(question.options)] if mode == "letters" else question.options
    scores = []
    for answer in answers:
        tokens = reference.tokenizer(answer, add_special_tokens=False)["input_ids"]
        sequence = torch.tensor([ids + tokens])
        kind = {"pixel_values_videos": pixels[None]} if llava else {"pixel_values": pixels}
        with torch.no_grad():
            log_p = reference.model(input_ids=sequence, **kind).logits[0].float().log_softmax(-1)
        places = range(len(ids) - 1, len(ids) + len(tokens) - 1)
        scores.append(torch.stack([log_p[i, t] for i, t in zip(places, tokens, strict=True)]).mean())
    return torch.stack(scores)


def test_scores_are_those_of_the_plain_model_call(reference: HuggingFaceReference, mode: AnswerMode) -> None:
    pictures = _pictures()
    features = reference.encode(pictures)
    found = reference.score([_request(features, question) for question in QUESTIONS])  # lengths differ: left padding
    for question, scores in zip(QUESTIONS, found, strict=True):
        assert scores.shape == (len(SUBSETS), len(question.options))
        assert scores.dtype == torch.float32
        expected = [_plain_scores(reference, pictures, question, subset, mode) for subset in SUBSETS.tolist()]
        torch.testing.assert_close(scores, torch.stack(expected), atol=1e-4, rtol=0)
        assert (scores[1] - scores[3]).abs().max() > 1e-3  # the frames matter, so the comparison means something


def test_one_at_a_time_together_and_in_another_order_give_the_same(
    reference: HuggingFaceReference, mode: AnswerMode
) -> None:
    features = [reference.encode(_pictures(seed)) for seed in (0, 1)]
    pairs = torch.tensor([[0, 5], [2, 3]])
    requests = [_request(f, q, s) for f in features for q in QUESTIONS for s in (SUBSETS, pairs)]
    together = reference.score(requests)
    alone = [reference.score([request])[0] for request in requests]
    single = torch.cat([reference.score([_request(features[0], QUESTIONS[0], row[None])])[0] for row in SUBSETS])
    backwards = reference.score(requests[::-1])[::-1]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, backwards, atol=1e-5, rtol=0)
    torch.testing.assert_close(together[0], single, atol=1e-5, rtol=0)
    small = HuggingFaceReference(reference.model, reference.tokenizer, answer_mode=mode, rows_per_batch=3)
    torch.testing.assert_close(together, small.score(requests), atol=1e-5, rtol=0)


def test_given_texts_are_scored_as_options_in_words_are(reference: HuggingFaceReference, mode: AnswerMode) -> None:
    features, question = reference.encode(_pictures()), QUESTIONS[2]
    texts = (*question.options, question.options[0])
    open_ended = ScoreRequest(features, torch.arange(FRAMES) / 4, Question(question.text), SUBSETS, texts=texts)
    found, _ = reference.score([open_ended, _request(features, QUESTIONS[0])])
    reference.answer_mode = "words"
    (expected,) = reference.score([_request(features, question)])
    reference.answer_mode = mode
    torch.testing.assert_close(found, expected[:, [0, 1, 2, 0]], atol=1e-5, rtol=0)


def test_a_subset_that_occurs_twice_is_scored_once(
    reference: HuggingFaceReference, mode: AnswerMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    forward = reference._forward

    def counting(rows: Sequence[Ready], **given: int) -> Tensor:
        counted.append(len(rows))
        return forward(rows, **given)

    monkeypatch.setattr(reference, "_forward", counting)
    subsets = torch.tensor([[3, 4], [0, 1], [3, 4], [3, 4], [0, 1]])
    (scores,) = reference.score([_request(reference.encode(_pictures()), QUESTIONS[1], subsets)])
    assert sum(counted) == 2  # one forward row a distinct subset: every answer is one token
    assert torch.equal(scores[0], scores[2])
    assert torch.equal(scores[1], scores[4])
    assert not torch.equal(scores[0], scores[1])


def test_options_that_begin_alike_share_their_rows(reference: HuggingFaceReference) -> None:
    reference.answer_mode = "words"
    rows = list(reference._rows(_request(torch.zeros(6, 4, 32), QUESTIONS[2]), SUBSETS[:1], [[5], [5, 7], [9]]))
    assert [row.continuation for row in rows] == [(5,)]  # what follows nothing is read on the way


def test_frames_are_seen_alike_alone_and_together(reference: HuggingFaceReference) -> None:
    pictures = _pictures()
    whole = reference.encode(pictures)
    assert whole.shape == (FRAMES, 4, 32)
    torch.testing.assert_close(reference.encode(pictures, batch_size=4), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(reference.encode(pictures[2:3])[0], whole[2], atol=1e-5, rtol=0)


def test_the_features_of_another_video_give_other_scores(reference: HuggingFaceReference, mode: AnswerMode) -> None:
    features = [reference.encode(_pictures(seed)) for seed in range(3)]
    right = reference.score([_request(f, QUESTIONS[0]) for f in features])
    wrong = reference.score([_request(f, QUESTIONS[0]) for f in (features[1], features[2], features[0])])
    for one, other in zip(right, wrong, strict=True):
        assert (one - other).abs().amax() > 1e-3
    torch.testing.assert_close(wrong, [right[1], right[2], right[0]], atol=1e-5, rtol=0)


def test_nothing_of_the_model_is_trained(reference: HuggingFaceReference) -> None:
    assert not any(p.requires_grad for p in reference.model.parameters())
    assert not reference.model.training
    assert not reference.encode(_pictures()).requires_grad


# ------------------------------------------------------------------ what is refused


def test_a_question_without_options_is_refused() -> None:
    with pytest.raises(ReferenceModelError, match="'Why\\?' has no options"):
        _request(torch.zeros(FRAMES, 4, 32), Question("Why?"))


@pytest.mark.parametrize("subsets", [[[2, 1]], [[1, 1]], [1, 2]])
def test_subsets_that_are_not_in_temporal_order_are_refused(subsets: Any) -> None:
    with pytest.raises(ReferenceModelError, match="strictly increasing"):
        _request(torch.zeros(FRAMES, 4, 32), QUESTIONS[0], torch.tensor(subsets))


def test_pictures_of_another_size_are_refused(reference: HuggingFaceReference) -> None:
    with pytest.raises(ReferenceModelError, match=r"\(32, 32\) pixels, found \(32, 48\)"):
        reference.encode(np.zeros((2, 32, 48, 3), np.uint8))


def test_options_that_the_tokenizer_cannot_tell_apart_are_refused(reference: HuggingFaceReference) -> None:
    reference.answer_mode = "words"
    with pytest.raises(ReferenceModelError, match=r"apart: .* answer by letter with reference\.answer_mode=letters"):
        reference.option_tokens(Question("Which?", ("zebra", "giraffe")))  # both unknown words


def test_a_question_that_holds_the_placeholder_is_refused(reference: HuggingFaceReference, mode: AnswerMode) -> None:
    features = reference.encode(_pictures())
    good = _request(features, QUESTIONS[0])
    bad = _request(features, Question(f"Is it {reference.family.placeholder}?", ("yes", "no")))
    with pytest.raises(ReferenceModelError, match="must not contain it"):
        reference.score([good, bad])


def test_more_options_than_letters_are_refused(reference: HuggingFaceReference) -> None:
    reference.answer_mode = "letters"
    with pytest.raises(ReferenceModelError, match="lettered A to Z; found 27"):
        reference.option_tokens(Question("Which?", tuple(map(str, range(27)))))


def test_other_kinds_of_model_are_refused(reference: HuggingFaceReference) -> None:
    with pytest.raises(ReferenceModelError, match="'qwen2' is not supported; supported: llava_onevision, internvl"):
        HuggingFaceReference(reference.model.model.language_model, reference.tokenizer)


# ------------------------------------------------------------------ on disk


def test_a_saved_model_scores_as_before(reference: HuggingFaceReference, mode: AnswerMode, tmp_path: Path) -> None:
    reference.model.save_pretrained(tmp_path)
    reference.tokenizer.save_pretrained(tmp_path)
    loaded = HuggingFaceReference.from_pretrained(tmp_path, answer_mode=mode)
    scores = [r.score([_request(r.encode(_pictures()), q) for q in QUESTIONS]) for r in (reference, loaded)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-6, rtol=0)
    assert loaded.image_size == (32, 32)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no reference model at .*nothing.*config\.json"):
        HuggingFaceReference.from_pretrained(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot load the reference model") as caught:
        HuggingFaceReference.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_distinct_subsets_and_where_they_came_from() -> None:
    distinct, inverse = unique_subsets(SUBSETS)
    assert len(distinct) == 3
    assert torch.equal(distinct[inverse], SUBSETS)


# ------------------------------------------------------------------ learning


def _corpus(count: int) -> Corpus:
    """Worlds without pictures: what is seen on each candidate is enough for oracle features."""
    worlds = tuple(sample_world(f"w-{i}", np.random.default_rng(i), num_frames=128, fps=8) for i in range(count))
    indices = candidate_indices(128, 16.0)
    shown = np.array([[world.at(int(i)) for i in indices] for world in worlds])
    return Corpus(worlds, np.zeros((count, 64, 0, 0, 3), np.uint8), shown)


def _oracle_features(corpus: Corpus, width: int) -> Tensor:
    """Each frame as one token: its card's fill, glyph and border, each a random direction. (V, 64, 1, width)."""
    directions = torch.randn(3, 11, width, generator=torch.Generator().manual_seed(0))
    labels = torch.from_numpy(card_labels(corpus))
    tokens = sum(directions[part][labels[:, part]] for part in range(3))
    assert isinstance(tokens, Tensor)
    return tokens.view(len(corpus.worlds), 64, 1, width) * 0.3


def _one_hop_accuracy(
    reference: HuggingFaceReference, corpus: Corpus, features: Tensor, videos: Sequence[int]
) -> float:
    """Share of one-hop questions answered right from the evidence frame and one other card; ``videos`` are looked at."""
    rng = np.random.default_rng(0)
    right = []
    for v, world in enumerate(corpus.worlds):
        for kind in list(HOPS)[:2]:
            event, other = (int(e) for e in rng.permutation(len(world.events))[:2])
            frames = [int(np.flatnonzero(corpus.shown[v] == e)[0]) for e in (event, other)]
            question, answer = ask(world, Probe(kind, event), rng)
            assert question.options[answer] == answer_word(world, Probe(kind, event))
            subset = torch.tensor([sorted(frames)])
            (scores,) = reference.score([ScoreRequest(features[videos[v]], torch.zeros(64), question, subset)])
            right.append(int(scores[0].argmax()) == answer)
    return sum(right) / len(right)


def test_with_perfect_features_the_language_model_learns_and_wrong_videos_spoil_it() -> None:
    corpus = _corpus(200)
    config = TinyReferenceConfig(width=64, layers=2)
    reference = new_reference(config)
    features = _oracle_features(corpus, config.width)
    rng = np.random.default_rng(0)
    reference.model.model.language_model.requires_grad_(True)
    optimizer = torch.optim.AdamW(reference.model.model.language_model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    lesson = Lesson(2, "words", False, 0.5)
    for step in range(150):
        rows, targets = answering_batch(reference, corpus, features, lesson, 64, rng)
        loss = torch.nn.functional.cross_entropy(reference.next_token_logits(rows), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20)
        torch.nn.utils.clip_grad_norm_(reference.model.parameters(), 1.0)
        optimizer.step()
    right = _one_hop_accuracy(reference, corpus, features, range(200))
    wrong = _one_hop_accuracy(reference, corpus, features, np.roll(range(200), 1).tolist())
    assert right > 0.6
    assert wrong < 0.4


def test_learning_to_answer_trains_the_language_model_and_leaves_the_eyes_alone() -> None:
    corpus = _corpus(10)
    config = TinyReferenceConfig(letters_steps=2, answering_steps=6, batch_size=8, width=32, layers=2)
    reference = new_reference(config)
    before = {name: value.clone() for name, value in reference.model.state_dict().items()}
    learn_to_answer(reference, corpus, _oracle_features(corpus, 32), config, np.random.default_rng(0))
    changed = {name for name, value in reference.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("language_model" in name for name in changed)
    assert not any("vision_tower" in name or "projector" in name for name in changed)
    assert not any(p.requires_grad for p in reference.model.parameters())
