"""Option scores by each family's own model call: official text, official pixels, official positions, one subset at a time.

Nothing of the adapter is used here. Where the official processor as a whole needs torchvision, its parts are called: the method
that writes the text of a video, the PIL image processor, the function that computes positions.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refocus_video.types import ByteArray, Question

INSTRUCTION = "Answer with the option's letter from the given choices directly."
PATCH = 8


def question_text(question: Question, mode: str) -> str:
    if mode == "words":
        return question.text
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCDEFGH", question.options, strict=False))
    return f"{question.text}\n{listed}\n{INSTRUCTION}"


def plain_scores(
    kind: str,
    model: Any,
    tokenizer: Any,
    frames: ByteArray,
    times: Sequence[float],
    question: Question,
    subset: Sequence[int],
    mode: str,
) -> Tensor:
    """Mean log-probability of each answer's tokens, (O,). Frames (F, H, W, 3) and times (F,) are those of the whole video."""
    shown = [times[i] for i in subset]
    before, inputs = _INPUTS[kind](model, tokenizer, frames[list(subset)], shown, times, question_text(question, mode))
    ids = tokenizer(before, add_special_tokens=False)["input_ids"]
    answers = list("ABCDEFGH"[: len(question.options)]) if mode == "letters" else list(question.options)
    scores = []
    for answer in answers:
        tokens = tokenizer((" " if kind == "smolvlm" else "") + answer, add_special_tokens=False)["input_ids"]
        sequence = torch.tensor([ids + tokens])
        extra = inputs(sequence)
        with torch.no_grad():
            log_p = model(input_ids=sequence, **extra).logits[0].float().log_softmax(-1)
        places = range(len(ids) - 1, len(ids) + len(tokens) - 1)
        scores.append(torch.stack([log_p[i, t] for i, t in zip(places, tokens, strict=True)]).mean())
    return torch.stack(scores)


def _normalised(frames: ByteArray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return torch.from_numpy((frames / 255.0 - np.array(mean)) / np.array(std)).permute(0, 3, 1, 2).float()


def _metadata(times: Sequence[float], whole: Sequence[float], repeat: int = 1) -> Any:
    """What the processors are told of a video of 4 frames a second: which frames were chosen."""
    from transformers.video_utils import VideoMetadata

    indices = [round(t * 4) for t in times for _ in range(repeat)]
    return VideoMetadata(total_num_frames=round(whole[-1] * 4) + 1, fps=4.0, duration=whole[-1], frames_indices=indices)


def _llava(model: Any, tokenizer: Any, frames: ByteArray, times: Any, whole: Any, text: str) -> Any:
    pixels = _normalised(frames, (0.5,) * 3, (0.5,) * 3)
    slots = "<video>" * (4 * len(frames) + 1)
    prompt = f"<|im_start|>user {slots}\n{text}<|im_end|><|im_start|>assistant\n"
    return prompt, lambda ids: {"pixel_values_videos": pixels[None]}


def _internvl(model: Any, tokenizer: Any, frames: ByteArray, times: Any, whole: Any, text: str) -> Any:
    from transformers.models.internvl.processing_internvl import InternVLProcessor

    pixels = _normalised(frames, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "image_token": "<IMG_CONTEXT>"}
    processor: Any = SimpleNamespace(image_seq_length=4, **marks)
    video = InternVLProcessor.replace_video_token(processor, {"pixel_values_videos": [pixels]}, 0)
    prompt = f"<|im_start|>user\n{video}\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return prompt, lambda ids: {"pixel_values": pixels}


def _qwen_pixels(frames: ByteArray, **settings: Any) -> tuple[Tensor, Tensor]:
    """Patches of every frame, doubled, by the official PIL processor; the frames' grid as one video."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    out = Qwen2VLImageProcessorPil(patch_size=PATCH, do_resize=False, **settings)(list(frames), return_tensors="pt")
    grid = out["image_grid_thw"]
    return out["pixel_values"], torch.tensor([[len(frames), int(grid[0, 1]), int(grid[0, 2])]])


def _types(tokenizer: Any, ids: Tensor) -> Tensor:
    return torch.eq(ids, int(tokenizer.convert_tokens_to_ids("<|video_pad|>"))).int() * 2


def _qwen2_5(model: Any, tokenizer: Any, frames: ByteArray, times: Any, whole: Any, text: str) -> Any:
    pixels, grid = _qwen_pixels(frames)
    slots = "<|video_pad|>" * (4 * len(frames))
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    prompt = f"{system}<|im_start|>user\n<|vision_start|>{slots}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"

    def inputs(ids: Tensor) -> dict[str, Any]:
        """Each frame has the time position that the model's own function gives it when all frames are shown."""
        kinds = _types(tokenizer, ids)
        given = {"input_ids": ids, "mm_token_type_ids": kinds, "video_grid_thw": grid}
        positions, _ = model.model.get_rope_index(**given, second_per_grid_ts=[0.0])
        all_ids = torch.tensor([[*[0] * 3, *[int(ids[kinds > 0][0])] * 4 * len(whole)]])
        everything, _ = model.model.get_rope_index(
            input_ids=all_ids,
            mm_token_type_ids=_types(tokenizer, all_ids),
            video_grid_thw=torch.tensor([[len(whole), 2, 2]]) * torch.tensor([1, 2, 2]),
            second_per_grid_ts=[whole[1] - whole[0]],
        )
        of_frame = everything[0, 0, 3::4] - 3
        positions[0][kinds > 0] += torch.stack([of_frame[whole.index(t)] for t in times]).repeat_interleave(4)
        return {
            "pixel_values_videos": pixels,
            "video_grid_thw": grid,
            "mm_token_type_ids": kinds,
            "position_ids": positions,
        }

    return prompt, inputs


def _qwen3(model: Any, tokenizer: Any, frames: ByteArray, times: Any, whole: Any, text: str) -> Any:
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    pixels, grid = _qwen_pixels(frames, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor: Any = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_token="<|video_pad|>",
        _calculate_timestamps=lambda *given: Qwen3VLProcessor._calculate_timestamps(None, *given),
    )
    given = {"video_grid_thw": grid, "video_metadata": [_metadata(times, whole, repeat=2)]}
    video = Qwen3VLProcessor.replace_video_token(processor, given, 0)
    prompt = f"<|im_start|>user\n{video}{text}<|im_end|>\n<|im_start|>assistant\n"
    return prompt, lambda ids: {
        "pixel_values_videos": pixels,
        "video_grid_thw": grid,
        "mm_token_type_ids": _types(tokenizer, ids),
    }


def video_llama_3_inputs(frames: ByteArray) -> dict[str, Tensor]:
    """Pixels and grid by the official PIL processor, and the mask of kept tokens."""
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

    official = VideoLlama3ImageProcessorPil(patch_size=PATCH, merge_size=2, do_resize=False)
    pixels = official(list(frames), return_tensors="pt")["pixel_values"]
    grid = torch.tensor([[len(frames), 4, 4]])
    merges = torch.tensor([2])
    if find_spec("torchvision"):
        from transformers.models.video_llama_3.video_processing_video_llama_3 import VideoLlama3VideoProcessor

        mask = VideoLlama3VideoProcessor._get_compression_mask(None, pixels, grid, merges)
    else:  # the same, from its description: a token stays if its pixels changed by more than a tenth of a level
        whole = frames.astype(int).reshape(len(frames), 2, 16, 2, 16, 3)
        changed = np.abs(np.diff(whole, axis=0)).mean(axis=(2, 4, 5)).reshape(-1, 4) * 2 > 0.1
        changed[:, 0] |= ~changed.any(axis=1)
        mask = torch.from_numpy(np.concatenate((np.ones(4, dtype=bool), changed.ravel())))
    return {
        "pixel_values_videos": pixels,
        "video_grid_thw": grid,
        "video_merge_sizes": merges,
        "video_compression_mask": mask,
    }


def _video_llama_3(model: Any, tokenizer: Any, frames: ByteArray, times: Any, whole: Any, text: str) -> Any:
    from transformers.models.video_llama_3.processing_video_llama_3 import VideoLlama3Processor

    inputs = video_llama_3_inputs(frames)
    processor: Any = SimpleNamespace(video_token="<|video_pad|>")
    video = VideoLlama3Processor.replace_video_token(
        processor, inputs | {"video_metadata": [_metadata(times, whole)]}, 0
    )
    prompt = f"<|im_start|>user\n{video}\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return prompt, lambda ids: inputs


def _smolvlm(model: Any, tokenizer: Any, frames: ByteArray, times: Any, whole: Any, text: str) -> Any:
    from transformers.models.smolvlm import processing_smolvlm

    pixels = _normalised(frames, (0.5,) * 3, (0.5,) * 3)[None]
    processor: Any = SimpleNamespace(
        image_seq_len=4,
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        global_image_token="<global-img>",
    )
    held = processing_smolvlm.num2words
    processing_smolvlm.num2words = {1: "one", 2: "two", 3: "three", 5: "five"}.get  # the package may be missing
    try:
        given = {"pixel_values": pixels, "video_metadata": [_metadata(times, whole)]}
        video = processing_smolvlm.SmolVLMProcessor.replace_video_token(processor, given, 0)
    finally:
        processing_smolvlm.num2words = held
    prompt = f"<|im_start|>User: {video}{text}<end_of_utterance>\nAssistant:"
    return prompt, lambda ids: {"pixel_values": pixels}


_INPUTS: dict[str, Any] = {
    "llava_onevision": _llava,
    "internvl": _internvl,
    "qwen2_5_vl": _qwen2_5,
    "qwen3_vl": _qwen3,
    "video_llama_3": _video_llama_3,
    "smolvlm": _smolvlm,
}
