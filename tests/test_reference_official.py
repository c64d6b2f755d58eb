"""Each family's whole official processor, on chosen frames with their metadata: the same token ids and the same scores.

The video processors need torchvision; without it ``test_reference_families.py`` compares with their parts.
"""

from copy import deepcopy
from typing import Any

import pytest
import torch

from plain_families import question_text
from refocus_video.reference.base import ScoreRequest
from refocus_video.reference.huggingface import HuggingFaceReference
from refocus_video.reference.tiny_families import tiny_model
from refocus_video.types import ByteArray
from test_reference_families import QUESTIONS, TIMES, pictures, tokenizer

pytest.importorskip("torchvision", exc_type=ImportError)
pytest.importorskip("num2words")

__all__ = ["pictures", "tokenizer"]  # fixtures

USER = "<|im_start|>user\n"
END = "<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "llava_onevision": "<|im_start|>user <video>\n{text}<|im_end|><|im_start|>assistant\n",
    "internvl": f"{USER}<video>\n{{text}}{END}",
    "qwen2_5_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"{USER}<|vision_start|><|video_pad|><|vision_end|>{{text}}{END}",
    "qwen3_vl": f"{USER}<|video_pad|>{{text}}{END}",
    "video_llama_3": f"{USER}<|video_pad|>\n{{text}}{END}",
    "smolvlm": "<|im_start|>User: <video>{text}<end_of_utterance>\nAssistant:",
}


def _processor(kind: str, tokenizer: Any) -> Any:
    import transformers as hf
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

    as_is: dict[str, Any] = {"do_resize": False}
    if kind == "llava_onevision":
        video = hf.LlavaOnevisionVideoProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3, **as_is)
        tokens = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        return hf.LlavaOnevisionProcessor(LlavaOnevisionImageProcessorPil(), tokenizer, video, **tokens)
    if kind == "internvl":
        tokenizer = deepcopy(tokenizer)
        names = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
        for name, token in names.items():
            setattr(tokenizer, f"{name}_token", token)
            setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(token))
        imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        video = hf.InternVLVideoProcessor(**imagenet, **as_is)
        return hf.InternVLProcessor(GotOcr2ImageProcessorPil(), tokenizer, video, image_seq_length=4)
    if kind == "smolvlm":
        video = hf.SmolVLMVideoProcessor(do_pad=False, **as_is)
        return hf.SmolVLMProcessor(SmolVLMImageProcessorPil(), tokenizer, video, image_seq_len=4)
    if kind == "video_llama_3":
        video = hf.VideoLlama3VideoProcessor(patch_size=8, **as_is)
        return hf.VideoLlama3Processor(VideoLlama3ImageProcessorPil(patch_size=8), tokenizer, video)
    image = Qwen2VLImageProcessorPil(patch_size=8)
    settings = as_is | {"patch_size": 8, "cap_pixels_per_frame": False}
    if kind == "qwen2_5_vl":
        return hf.Qwen2_5_VLProcessor(image, tokenizer, hf.Qwen2VLVideoProcessor(**settings))
    return hf.Qwen3VLProcessor(image, tokenizer, hf.Qwen3VLVideoProcessor(**settings))


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_official_processor_prepares_the_same(kind: str, tokenizer: Any, pictures: ByteArray) -> None:
    from transformers.video_utils import VideoMetadata

    torch.manual_seed(0)
    reference = HuggingFaceReference(tiny_model(kind, tokenizer), tokenizer, frame_size=(32, 32))
    qwen = kind.startswith("qwen")
    subset = [0, 2, 4] if kind == "qwen2_5_vl" else [0, 1, 4]  # the processor of Qwen2.5-VL knows even spacing only
    shown = [i for i in subset for _ in range(2 if qwen else 1)]
    indices = [round(TIMES[i] * 4) for i in shown]
    metadata = VideoMetadata(total_num_frames=51, fps=4.0, duration=TIMES[-1], frames_indices=indices)
    inputs = _processor(kind, tokenizer)(
        text=PROMPTS[kind].format(text=question_text(QUESTIONS[0], "letters")),
        videos=[pictures[shown]],
        do_sample_frames=False,
        video_metadata=[metadata],
        return_tensors="pt",
    )
    given = {name: value for name, value in inputs.items() if name != "video_metadata"}
    if kind == "qwen2_5_vl":
        given["second_per_grid_ts"] = torch.tensor([TIMES[2]])
    request = ScoreRequest(reference.encode(pictures), torch.tensor(TIMES), QUESTIONS[0], torch.tensor([subset]))
    (row,) = reference._rows(request, request.subsets, reference.option_tokens(QUESTIONS[0]))
    assert reference._maker.ready([row])[0].ids == given["input_ids"][0].tolist()
    with torch.no_grad():
        log_p = reference.model(**given).logits[0, -1].float().log_softmax(-1)
    expected = log_p[[tokens[0] for tokens in reference.option_tokens(QUESTIONS[0])]]
    torch.testing.assert_close(reference.score([request])[0][0], expected, atol=1e-5, rtol=0)
