"""The pure parts under the reference models: prompts, positions, patches, groups of rows, what fits, what is loaded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from refocus_video.config import ReferenceConfig
from refocus_video.errors import CheckpointError, ReferenceModelError
from refocus_video.reference.families import FAMILIES
from refocus_video.reference.frames import FrameCache
from refocus_video.reference.huggingface import FRAME_PIXELS, HuggingFaceReference
from refocus_video.reference.memory import Fitting, bytes_per_token, first_guess
from refocus_video.reference.pixels import normalised, patches, size_within
from refocus_video.reference.prefix import CALL_TOKENS, SHORT, common_prefix, plan
from refocus_video.reference.render import clock, hours_minutes_seconds, in_words, prompt
from refocus_video.reference.rope import mrope_positions
from refocus_video.reference.tiny_families import family_tokenizer, tiny_model
from refocus_video.types import ByteArray


def test_numbers_and_times_are_written_out() -> None:
    numbers = {0: "zero", 13: "thirteen", 20: "twenty", 32: "thirty-two", 100: "one hundred"}
    numbers |= {512: "five hundred and twelve", 1024: "one thousand and twenty-four"}
    assert {number: in_words(number) for number in numbers} == numbers
    assert in_words(1512) == "one thousand, five hundred and twelve"
    assert clock(59.9) == "00:59"
    assert clock(3725.5) == "62:05"
    assert hours_minutes_seconds(3725.5) == "1:02:05"


def test_numbers_are_those_of_the_package_that_the_official_processor_uses() -> None:
    num2words = pytest.importorskip("num2words").num2words
    assert [in_words(n) for n in range(2000)] == [num2words(n) for n in range(2000)]


def test_prompts_stand_as_they_were_trained() -> None:
    """Written out by hand for two frames of one token."""
    expected = {
        "qwen3_vl": "<|im_start|>user\n<0.5 seconds><|vision_start|><|video_pad|><|vision_end|><71.2 seconds><|vision_start|>"
        "<|video_pad|><|vision_end|>Why?<|im_end|>\n<|im_start|>assistant\n",
        "video_llama_3": "<|im_start|>user\nTime 0.5s:<|video_pad|>,Time 71.2s:<|video_pad|>\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "smolvlm": "<|im_start|>User: You are provided the following series of two frames from a 0:02:00 [H:MM:SS] video.\n"
        "\nFrame from 00:00:<fake_token_around_image><global-img><image><fake_token_around_image>"
        "\nFrame from 01:11:<fake_token_around_image><global-img><image><fake_token_around_image>\n\n"
        "Why?<end_of_utterance>\nAssistant:",
        "llava_onevision": "<|im_start|>user <video><video><video>\nWhy?<|im_end|><|im_start|>assistant\n",
    }
    for kind, text in expected.items():
        assert prompt(FAMILIES[kind], "Why?", [0.5, 71.2], [1, 1], 120.4) == text


def test_without_frames_only_the_question_is_left() -> None:
    assert prompt(FAMILIES["smolvlm"], "Why {this}?", [], [], 0.0) == (
        "<|im_start|>User: Why {this}?<end_of_utterance>\nAssistant:"
    )


def test_rows_that_begin_alike_share_their_beginning() -> None:
    rng = np.random.default_rng(0)
    beginning = rng.integers(1000, size=600)
    rows = [np.concatenate((beginning, rng.integers(1000, size=100 + i))) for i in range(3)]
    rows += [rng.integers(1000, size=700) for _ in range(2)]
    groups = plan(rows, most_rows=8, most_tokens=100_000)
    assert sorted(i for group in groups for i in group.rows) == list(range(5))
    (shared,) = (group for group in groups if group.shared)
    assert set(shared.rows) == {0, 1, 2}
    assert shared.shared >= 600
    same = plan([rows[0]] * 2, most_rows=8, most_tokens=100_000, own=3)
    assert same[0].shared == len(rows[0]) - 3  # the last tokens are always computed


@pytest.mark.parametrize("most", [(1, 10**6), (3, 10**6), (8, 2000), (8, 1)])
def test_groups_hold_every_row_once_and_keep_their_limits(most: tuple[int, int]) -> None:
    most_rows, most_tokens = most
    rng = np.random.default_rng(1)
    stems = [rng.integers(50, size=400) for _ in range(2)]
    rows = [np.concatenate((stems[i % 2][: 150 + 20 * i], rng.integers(50, size=20 + i))) for i in range(20)]
    assert min(map(len, rows)) <= SHORT < max(map(len, rows))
    groups = plan(rows, most_rows=most_rows, most_tokens=most_tokens)
    assert sorted(i for group in groups for i in group.rows) == list(range(20))
    cost = 0
    for group in groups:
        members = [rows[i] for i in group.rows]
        longest = max(map(len, members))
        own = len(members) * (longest - group.shared)
        assert len(members) <= most_rows
        assert len(members) == 1 or own <= most_tokens
        assert all(common_prefix(members[0], row) >= group.shared for row in members)
        assert all(len(row) > group.shared for row in members)
        if longest > SHORT:
            cost += own + group.shared + (2 if group.shared else 1) * CALL_TOKENS
    alone = sum(len(row) + CALL_TOKENS for row in rows if len(row) > SHORT)
    assert cost <= alone


def test_positions_follow_the_clock() -> None:
    visual = torch.tensor([0, 0, 1, 1, 1, 1, 0, 1, 1, 0]).bool()
    positions = mrope_positions(visual, (1, 2), [0.3, 2.0, 7.0], per_second=10.0)
    assert positions[0].tolist() == [0, 1, 5, 5, 22, 22, 4, 75, 75, 7]
    assert positions[1].tolist() == [0, 1, 2, 2, 2, 2, 4, 5, 5, 7]
    assert positions[2].tolist() == [0, 1, 2, 3, 2, 3, 4, 5, 6, 7]


def test_pixels_and_patches_are_those_of_the_official_processors() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

    frames = np.random.default_rng(0).integers(0, 256, (3, 56, 112, 3), dtype=np.uint8)
    cases: list[tuple[str, Any, int, int]] = [
        ("qwen2_5_vl", Qwen2VLImageProcessorPil(do_resize=False), 2, 2),
        ("video_llama_3", VideoLlama3ImageProcessorPil(do_resize=False, merge_size=2), 2, 1),
    ]
    for kind, official, merge, repeat in cases:
        family = FAMILIES[kind]
        pixels = normalised(frames, family.mean, family.std, torch.device("cpu"))
        expected = official(list(frames), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(patches(pixels, 14, merge, repeat).flatten(0, 1), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1080, 1920), (1920, 1080), (480, 480), (10, 900)])
@pytest.mark.parametrize("most", [28 * 28, 100_000, FRAME_PIXELS])
def test_sizes_keep_to_their_steps_and_limits(shape: tuple[int, int], most: int) -> None:
    height, width = size_within(shape, 28, most)
    assert height % 28 == width % 28 == 0
    assert height * width >= 28 * 28
    assert height * width <= most or 28 in (height, width)
    if most == FRAME_PIXELS and shape == (1080, 1920):
        assert (height, width) == (336, 588)


def test_a_frame_is_encoded_when_it_is_first_asked_for() -> None:
    calls: list[list[int]] = []

    def encode(frames: ByteArray) -> torch.Tensor:
        calls.append(frames[:, 0, 0, 0].tolist())
        return torch.from_numpy(frames[:, 0, 0, :2].astype(np.float32))

    cache = FrameCache(encode, np.arange(10 * 3, dtype=np.uint8).reshape(10, 1, 1, 3))
    assert len(cache) == 10
    assert cache[torch.tensor([4, 2, 4])].tolist() == [[12, 13], [6, 7], [12, 13]]
    assert cache[torch.tensor([2, 9])].tolist() == [[6, 7], [27, 28]]
    assert cache[9].tolist() == [27, 28]
    assert calls == [[6, 12], [27]]
    assert cache.shape == (10, 2)
    assert cache.encoded == 3


def test_work_that_does_not_fit_is_done_in_halves() -> None:
    fitting = Fitting("items", 8)
    seen: list[int] = []

    def work(items: list[int]) -> int:
        if len(items) > 2:
            raise torch.OutOfMemoryError
        seen.append(len(items))
        return sum(items)

    assert sum(fitting.run(work, list(range(8)), 8)) == 28
    assert seen == [2, 2, 2, 2]
    assert fitting.size == 2
    assert fitting.halvings == 3


def test_the_first_guess_grows_with_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SimpleNamespace(
        hidden_size=1536, intermediate_size=8960, num_attention_heads=12, num_key_value_heads=2, num_hidden_layers=28
    )
    model = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16)
    guesses = []
    for free in (8 * 2**30, 80 * 2**30):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        guesses.append(first_guess(model, text))
    assert guesses[0] * bytes_per_token(text, 2) <= 4 * 2**30
    assert guesses[1] == pytest.approx(10 * guesses[0], rel=1e-3)
    assert guesses[0] > 16 * 33 * 260 // 8  # an eighth of a group of 32 frames fits 8 GiB


# ------------------------------------------------------------------ what is refused


def test_a_model_that_cannot_see_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}), encoding="utf-8")
    with pytest.raises(
        ReferenceModelError, match=r"'qwen2' has no image or video processor.*supported: llava_onevision"
    ):
        HuggingFaceReference.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}), encoding="utf-8")
    with pytest.raises(ReferenceModelError, match=r"'llava' is not supported; supported: llava_onevision, internvl"):
        HuggingFaceReference.from_pretrained(tmp_path)


def test_frames_of_an_impossible_size_are_refused() -> None:
    tokenizer = family_tokenizer(["a", "b", "c", "d"])
    with pytest.raises(ReferenceModelError, match=r"multiples of 16 pixels, found \(40, 32\)"):
        HuggingFaceReference(tiny_model("qwen3_vl", tokenizer), tokenizer, frame_size=(40, 32))
    with pytest.raises(ReferenceModelError, match=r"frames of \(32, 32\) pixels, found \(64, 64\)"):
        HuggingFaceReference(tiny_model("internvl", tokenizer), tokenizer, frame_size=(64, 64))


def test_settings_of_the_loader(tmp_path: Path) -> None:
    assert ReferenceConfig().frame_pixels == FRAME_PIXELS
    tokenizer = family_tokenizer(["a", "b", "c", "d"])
    tiny_model("qwen2_5_vl", tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = HuggingFaceReference.from_pretrained(tmp_path, dtype="bfloat16", attention="eager", frame_pixels=64 * 64)
    assert made.model.dtype == torch.bfloat16
    assert made.model.get_decoder().config._attn_implementation == "eager"
    height, width = made.image_size
    assert height * width <= 64 * 64
    with pytest.raises(CheckpointError, match="cannot load the reference model"):
        HuggingFaceReference.from_pretrained(tmp_path, attention="no-such")


@pytest.mark.parametrize("renamed", [False, True])
def test_a_model_that_lacks_a_tensor_is_refused(tmp_path: Path, renamed: bool) -> None:
    tokenizer = family_tokenizer(["a", "b", "c", "d"])
    tiny_model("qwen2_5_vl", tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    weights = load_file(path)
    name = next(name for name in weights if "q_proj" in name and "vision" not in name)
    tensor = weights.pop(name)
    if renamed:
        weights[name.replace("q_proj", "q_projection")] = tensor
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 of the model's tensors, such as .*q_proj") as error:
        HuggingFaceReference.from_pretrained(tmp_path)
    assert ("others that no part of the model takes" in str(error.value)) == renamed
    assert "\n" not in str(error.value)
