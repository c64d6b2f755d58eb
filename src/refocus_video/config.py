"""Every setting, its default and where the default comes from.

The defaults are the paper's (arXiv 2506.01274; "METHOD" sections are those of docs/method.md) and describe
the full-size model. The tiny models differ by configuration only: see ``configs/``. An unknown key is an error.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from refocus_video.errors import ConfigError, did_you_mean
from refocus_video.settings import SECRET, Settings


def named_config(name: str) -> Path:
    """The YAML file called ``name``: a path, or one of those that come with the package; ConfigError where neither is."""
    bundled = {path.stem: path for path in (Path(__file__).parent / "configs").glob("*.yaml")}
    if Path(name).is_file():
        return Path(name)
    if name not in bundled:
        known, near = ", ".join(sorted(bundled)), did_you_mean(name, bundled)
        raise ConfigError(f"no configuration file at {name}{near}; give the path of a YAML file, or one of {known}")
    return bundled[name]


def _overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings of settings as one; what is stated above goes before what is below, group by group."""
    both = {key: (below[key], above[key]) for key in below.keys() & above.keys()}
    groups = {key: _overlaid(*pair) for key, pair in both.items() if all(isinstance(part, Mapping) for part in pair)}
    return {**below, **above, **groups}


class SamplingConfig(Settings):
    """How candidate frames are taken from a video (METHOD §2)."""

    fps: float = Field(default=4.0, gt=0)
    max_frames: int | None = Field(default=512, ge=0)
    """The most candidates, the paper's 512; null or 0 for no limit."""


class VisionConfig(Settings):
    """A SigLIP tower; the names are those of ``transformers.SiglipVisionConfig``. Defaults: so400m/14 at 384 px."""

    hidden_size: int = Field(default=1152, ge=1, le=65536)
    intermediate_size: int = Field(default=4304, ge=1, le=262144)
    num_hidden_layers: int = Field(default=26, ge=1, le=1024)
    """Layers that are run. The published tower has 27; the last is dropped (METHOD §3)."""
    num_attention_heads: int = Field(default=16, ge=1, le=1024)
    image_size: int = Field(default=384, ge=1, le=8192)
    patch_size: int = Field(default=14, ge=1, le=8192)
    pixel_mean: float = 0.5
    """Pixels are scaled to 0..1, then shifted and divided by these two."""
    pixel_std: float = Field(default=0.5, gt=0)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of {self.num_attention_heads} attention heads"
            )
        if self.patch_size > self.image_size:
            raise ValueError(f"patch_size {self.patch_size} must be at most image_size {self.image_size}")
        return self


HeadNorm = Literal["none", "l2", "rmsnorm"]
"""What is done to the output of a head: nothing, length 1, or root mean square 1."""

PoolMode = Literal["bilinear", "mean"]
"""How patches become tokens."""

_SIGLIP_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 11,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
}
"""google/siglip-base-patch16-224, whose patch grid of 14×14 divides into 7×7, 2×2 and 1×1."""

_LITE = {"vision": _SIGLIP_BASE, "pool_mode": "mean", "d_model": 512, "n_layer": 12, "d_state": 64}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "0.3b": {"d_model": 1024, "n_layer": 48},
    "1.3b": {"d_model": 2048, "n_layer": 48},
    "2.7b": {"d_model": 2560, "n_layer": 64},
    "lite": {**_LITE, "pool_stride": 7},
    **{f"lite-{-(-14 // stride)}x{-(-14 // stride)}": {**_LITE, "pool_stride": stride} for stride in (1, 2, 4, 7, 14)},
}
"""Policies by name: the three sizes of Video-Ma²mba, whose backbones are those of Mamba-2 370m, 1.3b and 2.7b (METHOD §3),
and a small one over a small tower, told apart by the grid of tokens that stands for a frame. ``lite`` is ``lite-2x2``."""


class PolicyConfig(Settings):
    """The selection policy (METHOD §3). Defaults: the 1.3B model.

    ``preset: NAME`` among the settings stands for those of :data:`PRESETS`; what is stated beside it goes before it.
    """

    vision: VisionConfig = VisionConfig()
    pool_stride: int = Field(default=2, ge=1)
    """Pooling of the patch grid to 1/stride of its side: 27×27 → 14×14 at stride 2."""
    pool_mode: PoolMode = "bilinear"
    """Bilinear as in the paper, which looks at no more than 2×2 patches for a token, or the mean of all patches."""
    merge: int = Field(default=1, ge=1)
    """Joins merge×merge neighbouring pooled tokens into one wider token; 1 keeps them as in the paper."""
    d_model: int = Field(default=2048, ge=1, le=65536)
    n_layer: int = Field(default=48, ge=1, le=1024)
    d_state: int = Field(default=128, ge=1, le=65536)
    headdim: int = Field(default=64, ge=1, le=65536)
    expand: int = Field(default=2, ge=1, le=64)
    d_conv: int = Field(default=4, ge=1, le=1024)
    chunk_size: int = Field(default=64, ge=1, le=65536)
    vocab_size: int = Field(default=50288, ge=1, le=10000000)
    prompt_prefix: str = "<|system|>You are a helpful AI assistant.<|endoftext|><|user|>"
    prompt_suffix: str = "<|endoftext|>"
    options_in_prompt: bool = True
    """Whether the policy reads the answer options after the question, as the paper's does."""
    value_head_norm: HeadNorm = "none"
    """Normalises what is fed back after a pick; a learned elementwise scale follows where it is on."""
    value_head_scale: float = 1.0
    """What that scale starts from."""
    score_head_norm: HeadNorm = "none"
    """Normalises keys and queries."""
    logit_scale_type: Literal["scalar", "vector"] = "scalar"
    """One scale of the pick logits, or one for each channel of keys and queries."""
    logit_scale_fn: Literal["softplus", "exp"] = "softplus"
    """Makes the scale positive."""
    attention_scaling: bool = False
    """Divide the pick logits by √d_model as well."""
    use_rank_head: bool = False
    """A linear score of a whole subset, from the hidden state after its last pick."""
    frame_generation_method: Literal["autoregressive", "block"] = "autoregressive"
    """Feed each pick back before the next, or ask for all picks at once with ``query_frames`` learned inputs."""
    query_frames: int = Field(default=32, ge=1)
    """The budget a policy was made for (the paper's); the most that a block one can pick, and no limit for others."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "preset" not in values:
            return values
        name, stated = values["preset"], {key: value for key, value in values.items() if key != "preset"}
        if name not in PRESETS:
            raise ValueError(f"no preset {name!r}{did_you_mean(name, PRESETS)}; known: {', '.join(PRESETS)}")
        return _overlaid(PRESETS[name], stated)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if (self.expand * self.d_model) % self.headdim:
            raise ValueError(
                f"expand·d_model {self.expand * self.d_model} must be a multiple of headdim {self.headdim}"
            )
        if self.pooled_side % self.merge:
            raise ValueError(
                f"the pooled grid of {self.pooled_side}×{self.pooled_side} tokens must divide by merge {self.merge}"
            )
        return self

    @property
    def pooled_side(self) -> int:
        """Tokens along one side of the pooled patch grid: 14 in the full model."""
        return -(-(self.vision.image_size // self.vision.patch_size) // self.pool_stride)

    @property
    def tokens_per_frame(self) -> int:
        """Tokens that stand for one frame in the policy's sequence: 196 in the full model."""
        return (self.pooled_side // self.merge) ** 2


ScanChoice = Literal["auto", "torch", "triton"]


class ComputeConfig(Settings):
    """How the policy's backbone is run: speed and memory depend on it, results only by rounding."""

    device: str = "auto"
    """Where policy and frozen models run: cuda, cuda:1, mps, cpu, or auto for the first of them that is there."""
    scan: ScanChoice = "auto"
    """What computes the recurrence: plain PyTorch, Triton kernels, or whichever suits the device and the weights."""
    segment_tokens: int = Field(default=4096, ge=1)
    """Most tokens of a video that are run at once; memory grows with it."""
    cell_layers: int = Field(default=8, ge=1)
    """Layers that the backward pass computes again at once, for one segment at a time, when a video takes several."""


class Stage(Settings):
    """A stretch of the curriculum."""

    until: float = Field(gt=0, le=1)
    """Share of training at which the stage ends."""
    budgets: tuple[int, ...] = Field(min_length=1)
    """Budgets practised; one is drawn for each step."""
    question_types: dict[str, float] = Field(default={})
    """Question types practised, each with the relative chance of one of its questions; empty for all alike."""


PictureFormat = Literal["jpeg", "png"]
FramesAs = Literal["images", "video"]


class EndpointConfig(Settings):
    """An OpenAI-compatible server that runs the model in place of this process; a plain URL stands for the rest's defaults."""

    url: str
    """Address up to and with ``/v1``."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key, if the server wants one. The key itself is never a setting."""
    image_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (448, 448)
    """Height and width of the frames that are sent, in pixels."""
    image_format: PictureFormat = "jpeg"
    jpeg_quality: int = Field(default=90, ge=1, le=100)
    frames_as: FramesAs = "images"
    """One picture a frame, each with its time; or one list of frames, which only vLLM takes."""
    top_logprobs: int = Field(default=20, ge=2)
    """Likeliest tokens to ask for; servers give 20 at most unless told otherwise."""
    concurrency: int = Field(default=16, ge=1)
    """Requests at the same time."""
    timeout_s: float = Field(default=120.0, gt=0)
    max_retries: int = Field(default=6, ge=0)
    """How often a request is repeated after status 408, 429 or 5xx, a lost connection or no reply in time."""
    price_per_million_in: float = Field(default=0.0, ge=0)
    """What a million tokens of requests cost, and of replies: for the cost that is shown."""
    price_per_million_out: float = Field(default=0.0, ge=0)
    cache: str | None = None
    """Folder of the replies that are kept; ``$REFOCUS_CACHE/endpoint`` or ``~/.cache/refocus-video/endpoint`` if None."""
    extra_body: dict[str, Any] = Field(default={})
    """Further fields of every request, e.g. ``{chat_template_kwargs: {enable_thinking: false}}``."""

    @model_validator(mode="before")
    @classmethod
    def _plain_url(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", name):
            raise PydanticCustomError(
                SECRET, "must be the name of an environment variable that holds the key, not a key"
            )
        return name

    @field_validator("url")
    @classmethod
    def _clean(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:
            raise PydanticCustomError(SECRET, "must not hold a key; name its environment variable in api_key_env")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an address such as http://localhost:8000/v1")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _frame_lists_are_jpeg(self) -> Self:
        if self.frames_as == "video" and self.image_format != "jpeg":
            raise ValueError("frames_as video is a list of JPEG pictures; set image_format to jpeg")
        return self


class ModelConfig(Settings):
    """A frozen LMM."""

    model: str = "OpenGVLab/InternVL3-2B-hf"
    """Folder or hub id, or the name by which an endpoint knows it; the paper's second version."""
    revision: str | None = None
    """Branch, tag or commit of a model of the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto takes the checkpoint's."""
    attention: str | None = None
    """Implementation in transformers' words (sdpa, flash_attention_2, ...); None for its choice."""
    frame_pixels: int = Field(default=448 * 448, ge=28 * 28)
    """Most pixels of a frame, for families that take frames of any size."""
    answer_mode: Literal["letters", "words"] = "letters"
    endpoint: EndpointConfig | None = None
    """The server that runs it; None runs it here."""

    @model_validator(mode="after")
    def _letters(self) -> Self:
        if self.endpoint is not None and self.answer_mode != "letters":
            raise ValueError("an endpoint answers by letter: set answer_mode to letters")
        return self


class ReferenceConfig(ModelConfig):
    """Which frozen LMM scores the subsets, and how its scores become rewards (METHOD §4)."""

    ensemble: tuple[ModelConfig, ...] = ()
    """Further LMMs that score the same subsets."""
    combine: Literal["mean", "min"] = "mean"
    """How the rewards of several LMMs become one."""
    reward: str = "margin"
    """margin, probability, accuracy, likelihood, or an import path package.module:function (``reference/rewards.py``)."""
    open_reward: str = "likelihood"
    """The same for questions without options."""
    control: tuple[Literal["uniform", "none"], ...] = Field(default=("uniform", "none"), min_length=1)
    """With what a reward that needs it compares the picked frames: as many evenly spread ones, and no frame at all."""
    rotation: Literal["none", "shuffle", "cycle", "average"] = "shuffle"
    """What keeps letters from being learned: options in a new order at each step; every next subset of a group with the options one
    place further; or every subset under all such rotations, averaged, which costs as many scorings as there are options."""


class FilterConfig(Settings):
    """The reward-variance filter (METHOD §6)."""

    budget: int = Field(default=4, ge=1)
    """Frames in each of the 16 probes."""
    threshold: float = Field(default=0.2, ge=0)
    """τ of the paper's second version."""
    keep: int | None = Field(default=None, ge=1)
    """Keep so many questions, those with the largest variances, whatever τ."""
    seed: int = 0


class LoopConfig(Settings):
    """What every training of a policy needs. Names follow TRL's GRPOConfig where they mean the same."""

    seed: int = 0
    max_steps: int = Field(default=900, ge=1)
    """The paper trains for about 900 steps."""
    videos_per_step: int = Field(default=8, ge=1)
    questions_per_video: int = Field(default=3, ge=1)
    bf16: bool = False
    """Mixed precision: products in bfloat16, weights, sums over tokens and the optimiser in float32."""
    learning_rate: float = Field(default=1e-5, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=20, ge=0)
    decay_from: float = Field(default=0.6, ge=0, lt=1)
    """Share of training after which the learning rate falls linearly to 5 %."""
    save_steps: int = Field(default=100, ge=1)


class TrainConfig(LoopConfig):
    """Reinforcement learning of the policy (METHOD §5)."""

    num_generations: int = Field(default=16, ge=2)
    """Subsets of each question (G)."""
    per_device_train_batch_size: int | None = Field(default=None, ge=1)
    """Videos whose gradient a device computes at once; the step's other videos are accumulated, with the same result. Memory grows
    with it. Below the step's videos they are indexed once more, without gradient, for the rollouts. None: all of the step."""
    num_iterations: int = Field(default=1, ge=1)
    """Optimiser steps on each batch of rollouts."""
    stages: tuple[Stage, ...] = (
        Stage(until=0.25, budgets=(4,)),
        Stage(until=0.5, budgets=(8,)),
        Stage(until=0.75, budgets=(16,)),
        Stage(until=1.0, budgets=(32,)),
    )
    temperature: float = Field(default=1.0, gt=0)
    epsilon: float = Field(default=0.2, gt=0)
    scale_rewards: Literal["group", "running", "none"] = "group"
    gate: float = Field(default=1e-3, ge=0)
    """Groups whose rewards spread less than this carry no signal and are skipped."""
    entropy_coef: float = Field(default=0.001, ge=0)
    """β of the paper's second version; the start value when steered."""
    entropy_target: tuple[float, float] | None = None
    """Entropy per pick, as a share of the logarithm of the candidates, at the start and the end; None keeps β fixed."""
    entropy_target_until: float = Field(default=0.7, gt=0, le=1)
    entropy_rate: float = Field(default=0.03, gt=0)
    entropy_coef_range: tuple[float, float] = (1e-4, 0.4)

    @field_validator("stages")
    @classmethod
    def _some_stage(cls, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
        if not stages:
            raise ValueError("needs at least one stage, e.g. [{until: 1.0, budgets: [4]}]")
        return stages


class WarmStartConfig(LoopConfig):
    """Similarity warm start: the policy learns to pick what an image–text model finds similar to the question.

    The paper has none. Temperature and learning rate are those that RL-FrameSel (CVPR 2026) states for its own.
    """

    teacher: str | None = None
    """Folder or hub id of an image–text model such as SigLIP; None for ``start.tower``."""
    temperature: float = Field(default=0.03, gt=0)
    """The teacher's distribution is the softmax of cosine similarities divided by this."""
    budget: int = Field(default=8, ge=1)
    """Picks in a row that are practised, each without the frames picked before."""
    num_generations: int = Field(default=4, ge=1)
    """Subsets of each question that the teacher picks, so that the policy sees different frames picked before."""
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """Share of the videos that are not trained on, from which the agreement with the teacher is measured."""
    learning_rate: float = Field(default=1e-4, gt=0)


class StartConfig(Settings):
    """What a new policy starts from (METHOD §3)."""

    tower: str = "google/siglip-so400m-patch14-384"
    """Folder or hub id of a model that holds a SigLIP tower: the frozen encoder."""
    tokenizer: str = "EleutherAI/gpt-neox-20b"
    backbone: str | None = None
    """Folder or hub id of a pretrained Mamba-2 or Video-Ma²mba; None starts from random weights."""
    policy: str | None = None
    """Folder or hub id of a policy to train further, with its own sizes; None starts a new one."""
    new_heads: bool = False
    """Give that policy the initialisation of a new one: heads, last layer and final norm."""


class RunConfig(Settings):
    """Everything a training run needs; what is saved beside its results."""

    sampling: SamplingConfig = SamplingConfig()
    policy: PolicyConfig = PolicyConfig()
    compute: ComputeConfig = ComputeConfig()
    start: StartConfig = StartConfig()
    reference: ReferenceConfig = ReferenceConfig()
    filter: FilterConfig = FilterConfig()
    warm: WarmStartConfig = WarmStartConfig()
    train: TrainConfig = TrainConfig()
