"""The sections of gpu.py: each takes a :class:`Bench` and returns what it measured. None needs what another one made."""

import gc
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from picking import Letters
from refocus_video.config import ComputeConfig, PolicyConfig, VisionConfig
from refocus_video.policy.pick import pick_frames
from refocus_video.policy.policy import FramePolicy
from refocus_video.policy.records import VideoIndex, joined
from refocus_video.policy.scan import obstacle, scan
from refocus_video.policy.ssd import ssd_scan
from refocus_video.types import ByteArray, Question

TARGETS = {"index_s": 2.0, "further_question_s": 0.15, "peak_gb": 5.0}
PUBLISHED = {"question_s": 9.0, "peak_gb": 5.3, "where": "the authors' GPU, 512 frames, everything for every question"}
QUESTION = Question(
    "What does the man in the red coat put on the table after he has come in?",
    ("a cup", "a letter", "a key", "a lamp"),
)
GB = 1e9
Way = Literal["torch", "compiled", "triton"]
"""How a scan is computed."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done."""

    policy: PolicyConfig
    frames: int
    budget: int
    group: int
    repeats: int
    segments: tuple[int, ...]
    """Tokens of a video that are run at once."""
    scan_tokens: int
    clip_s: int
    clip_size: tuple[int, int]
    reference: dict[str, int]
    """Of an InternVL model."""
    distinct: int
    """Frames that the subsets of a trained policy are made of."""


FULL = Sizes(
    policy=PolicyConfig(),
    frames=512,
    budget=32,
    group=16,
    repeats=5,
    segments=(4096, 16384),
    scan_tokens=4096,
    clip_s=32,
    clip_size=(1280, 720),
    # InternVL3-2B: InternViT-300M and Qwen2.5-1.5B.
    reference={"side": 448, "patch": 14, "tower": 1024, "tower_mlp": 4096, "tower_layers": 24, "tower_heads": 16}
    | {"width": 1536, "mlp": 8960, "layers": 28, "heads": 12, "kv_heads": 2, "vocabulary": 151674},
    distinct=48,
)
TINY = Sizes(
    policy=PolicyConfig(
        vision=VisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        d_model=32,
        n_layer=2,
        d_state=16,
        headdim=16,
        vocab_size=64,
    ),
    frames=24,
    budget=4,
    group=4,
    repeats=2,
    segments=(16, 64),
    scan_tokens=64,
    clip_s=1,
    clip_size=(64, 48),
    reference={"side": 32, "patch": 8, "tower": 16, "tower_mlp": 32, "tower_layers": 1, "tower_heads": 2}
    | {"width": 32, "mlp": 64, "layers": 2, "heads": 2, "kv_heads": 1, "vocabulary": 256},
    distinct=6,
)


@dataclass(frozen=True)
class Bench:
    """Where and how large; the policy and the frames are made when they are first needed."""

    sizes: Sizes
    device: torch.device
    dtype: torch.dtype = field(default=torch.bfloat16)

    @classmethod
    def create(cls, dry_run: bool) -> "Bench":
        """Tiny on the processor, or full on the GPU."""
        torch.manual_seed(0)
        return cls(TINY, torch.device("cpu")) if dry_run else cls(FULL, torch.device("cuda"))

    @cached_property
    def policy(self) -> FramePolicy:
        """With random weights."""
        return self.new_policy(self.sizes.policy).to(self.dtype)

    def new_policy(self, config: PolicyConfig) -> FramePolicy:
        """With random weights in float32, made where they stay."""
        with self.device:
            return FramePolicy(config, Letters()).eval()

    @cached_property
    def frames(self) -> ByteArray:
        """Pictures of the size that the policy's tower takes."""
        return self.pictures(self.sizes.policy.vision.image_size)

    def pictures(self, side: int) -> ByteArray:
        """Noise of coarse blocks, (F, side, side, 3)."""
        coarse = np.random.default_rng(0).integers(0, 256, (self.sizes.frames, 8, 8, 3), dtype=np.uint8)
        steps = np.arange(side) * 8 // side
        return np.ascontiguousarray(coarse[:, steps][:, :, steps])

    def seconds(self, function: Callable[[], Any], repeats: int | None = None) -> dict[str, Any]:
        """The first call, and the median and the fastest of some after it."""
        times = []
        for _ in range(1 + (repeats or self.sizes.repeats)):
            self.wait()
            begun = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - begun)
        first, *later = times
        return {"first_s": digits(first), "median_s": digits(statistics.median(later)), "fastest_s": digits(min(later))}

    def wait(self) -> None:
        """Until the GPU has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def watch_memory(self) -> None:
        """Begin a new peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        """Of tensors since :meth:`watch_memory`; None on a processor."""
        return digits(torch.cuda.max_memory_allocated() / GB) if self.device.type == "cuda" else None

    def within(self, found: float | None, target: str) -> bool | None:
        """Whether a target is met; None in a dry run, which tells nothing about it."""
        return None if found is None or self.device.type != "cuda" else found <= TARGETS[target]

    def index(self, tokens: int | None = None) -> VideoIndex:
        """All frames, group by group, with the tower; as ``selectors/stream.py`` does it with decoded ones."""
        policy, parts = self.policy, []
        group = max(1, (tokens or self.sizes.segments[0]) // policy.config.tokens_per_frame)
        state = policy.start_index().state
        with torch.no_grad():
            for start in range(0, len(self.frames), group):
                features = policy.encode(self.frames[start : start + group])
                parts.append(policy.continue_index(state, features[None], segment=group))
                state = parts[-1].state
        return joined(parts)


def digits(number: float) -> float:
    return float(f"{number:.4g}")


def release() -> None:
    """Give back what a section left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def environment(bench: Bench) -> dict[str, Any]:
    """The device, what is installed, and which back-end the scan gets and why."""
    device: dict[str, Any] = {"name": platform.machine()}
    if bench.device.type == "cuda":
        facts = torch.cuda.get_device_properties(bench.device)
        device = {"name": facts.name, "memory_gb": round(facts.total_memory / GB, 1), "cuda": torch.version.cuda}
    return {
        "device": device,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "model": bench.sizes.policy.model_dump(include={"d_model", "n_layer", "d_state", "headdim"}),
        "weights": "random",
        "triton_obstacle": {
            "inference": obstacle(bench.device, bench.dtype),
            "training": obstacle(bench.device, bench.dtype, gradient=True),
        },
        "targets": TARGETS,
        "published": PUBLISHED,
    }


def relative_error(found: Tensor, expected: Tensor) -> float:
    wide = expected.double()
    return digits(float((found.double() - wide).norm() / wide.norm()))


# ------------------------------------------------------------------ the policy


def decode(bench: Bench) -> dict[str, Any]:
    """Candidates of a file made here, at 4 a second; on the processor."""
    from clips import Clip
    from refocus_video.video.reader import VideoReader
    from refocus_video.video.sampling import candidate_indices

    width, height = bench.sizes.clip_size
    clip = Clip("", bench.sizes.clip_s, width, height)
    side = bench.sizes.policy.vision.image_size
    with tempfile.TemporaryDirectory() as folder:
        path = clip.path(Path(folder))
        cpu, wall = time.process_time(), time.perf_counter()
        with VideoReader(path) as reader:
            wanted = candidate_indices(reader.info.num_frames, reader.info.duration_s, 4.0, bench.sizes.frames)
            reader.read(wanted, (side, side))
        return {
            "file": f"{width}×{height} H.264, {clip.seconds} s",
            "candidates": len(wanted),
            "cpu_s": digits(time.process_time() - cpu),
            "wall_s": digits(time.perf_counter() - wall),
        }


def index(bench: Bench) -> dict[str, Any]:
    """All frames looked at, beside decoding: tower and backbone together, then each alone."""
    policy, rows = bench.policy, {}
    weights_gb = digits(sum(weight.nbytes for weight in policy.parameters()) / GB)
    for tokens in bench.sizes.segments:
        bench.watch_memory()
        rows[f"{tokens} tokens at once"] = {
            **bench.seconds(partial(bench.index, tokens), 3),
            "peak_gb": bench.peak_gb(),
        }
    with torch.no_grad():
        features = policy.encode(bench.frames)[None]
        tower = bench.seconds(lambda: policy.encode(bench.frames), 3)
        backbone = bench.seconds(lambda: policy.index(features), 3)
        found = policy.index(features)
    best = min(rows.values(), key=lambda row: float(row["median_s"]))
    return {
        "frames": len(bench.frames),
        "tokens": len(bench.frames) * policy.config.tokens_per_frame,
        "back_end": policy.backbone.backend(),
        "weights_gb": weights_gb,
        "rows": rows,
        "tower": tower,
        "backbone": backbone,
        "finite": bool(found.keys.isfinite().all() and found.values.isfinite().all()),
        "within_time": bench.within(best["median_s"], "index_s"),
        "within_memory": bench.within(best["peak_gb"], "peak_gb"),
    }


def question(bench: Bench) -> dict[str, Any]:
    """A further question of an indexed video: its tokens, then the picks; greedy."""
    from refocus_video.policy.capture import CapturedStep

    policy, sizes = bench.policy, bench.sizes
    indexed = bench.index()
    captured = CapturedStep(policy.backbone)
    one, eight = torch.tensor([0]), torch.zeros(8, dtype=torch.int64)

    @torch.no_grad()
    def answer(rows: Tensor, group: int = 1, step: CapturedStep | None = None) -> Tensor:
        asked = policy.ask(indexed, [QUESTION] * len(rows), rows)
        return pick_frames(policy, indexed, asked, sizes.budget, group, greedy=True, step=step).picks

    bench.watch_memory()
    rows = {
        "plain steps": bench.seconds(lambda: answer(one)),
        "replayed steps": bench.seconds(lambda: answer(one, step=captured)),
        "eight questions": bench.seconds(lambda: answer(eight, step=captured)),
        f"group of {sizes.group}": bench.seconds(lambda: answer(one, sizes.group)),
    }
    used = rows["replayed steps"]["median_s"]
    with torch.no_grad():
        asking = bench.seconds(lambda: policy.ask(indexed, [QUESTION], one))
    return {
        "budget": sizes.budget,
        "rows": rows,
        "question_alone": asking,
        "same_picks": bool((answer(one) == answer(one, step=captured)).all()),
        "peak_gb": bench.peak_gb(),
        "within_target": bench.within(used, "further_question_s"),
    }


def policy_step(bench: Bench) -> dict[str, Any]:
    """The policy's part of a step of reinforcement learning: index and log-probs with gradient, then backward."""
    policy, sizes = bench.policy, bench.sizes
    policy.vision.tower.requires_grad_(False)
    with torch.no_grad():
        features = policy.encode(bench.frames)[None]
        indexed = policy.index(features)
        rows = torch.tensor([0])
        picks = pick_frames(policy, indexed, policy.ask(indexed, [QUESTION], rows), sizes.budget, sizes.group).picks
    advantages = torch.linspace(-1, 1, sizes.group, device=bench.device)[None, :, None]  # (1, G, 1)

    def step() -> None:
        policy.zero_grad(set_to_none=True)
        indexed = policy.index(features)
        scores = policy.log_probs(indexed, policy.ask(indexed, [QUESTION], rows), picks)
        loss = -(advantages * scores.log_probs).mean() - 1e-3 * scores.entropy.mean()
        loss.backward()  # type: ignore[no-untyped-call]

    table: dict[str, Any] = {}
    layers = policy.backbone.compute.cell_layers
    before = policy.backbone.compute
    try:
        for tokens in sizes.segments:
            policy.backbone.compute = ComputeConfig(segment_tokens=tokens, cell_layers=layers)
            bench.watch_memory()
            found = bench.seconds(step, 1)
            table[f"{tokens} tokens × {layers} layers recomputed"] = {**found, "peak_gb": bench.peak_gb()}
    finally:
        policy.backbone.compute = before
    trained = [weight for weight in policy.parameters() if weight.grad is not None]
    result = {
        "tokens": sizes.frames * policy.config.tokens_per_frame,
        "group": sizes.group,
        "back_end": policy.backbone.backend(gradient=True),
        "rows": table,
        "finite": all(bool(weight.grad.isfinite().all()) for weight in trained if weight.grad is not None),
        "weights_with_gradient": len(trained),
    }
    policy.zero_grad(set_to_none=True)
    return result


# ------------------------------------------------------------------ back-ends


def back_ends(bench: Bench) -> dict[str, Any]:
    """Plain and Triton scan of one layer against float64: error and time, with the reason where Triton cannot run."""
    config, length = bench.sizes.policy, bench.sizes.scan_tokens
    heads = config.expand * config.d_model // config.headdim
    rows: dict[str, Any] = {}
    for dtype in (torch.bfloat16, torch.float32):
        parts = scan_inputs(bench, length, heads, config, dtype)
        with torch.no_grad():
            expected, last = ssd_scan(*(part.double() for part in parts), chunk=config.chunk_size)
        for choice in get_args(Way):
            name = f"{choice} {str(dtype).removeprefix('torch.')}"
            rows[name] = one_back_end(bench, parts, dtype, choice, expected, last)
    return {"length": length, "heads": heads, "rows": rows}


def scan_inputs(bench: Bench, length: int, heads: int, config: PolicyConfig, dtype: torch.dtype) -> list[Tensor]:
    """x, log-decay, b, c and state, with numbers that ``dtype`` holds exactly."""
    generator = torch.Generator(bench.device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=bench.device)

    x, b, c = (
        part.to(dtype).float()
        for part in (
            0.3 * normal(1, length, heads, config.headdim),
            normal(1, length, config.d_state),
            normal(1, length, config.d_state),
        )
    )
    return [x, -normal(1, length, heads).abs(), b, c, normal(1, heads, config.headdim, config.d_state)]


def one_back_end(
    bench: Bench, parts: list[Tensor], dtype: torch.dtype, choice: Way, expected: Tensor, last: Tensor
) -> dict[str, Any]:
    chunk = bench.sizes.policy.chunk_size
    function: Callable[..., tuple[Tensor, Tensor]]
    if choice == "compiled":
        if bench.device.type != "cuda":
            return {"not_run": "compiled for the GPU alone"}
        function = torch.compile(partial(ssd_scan, chunk=chunk))
    else:
        reason = obstacle(bench.device, dtype) if choice == "triton" else None
        if reason is not None:
            return {"not_run": reason}
        function = partial(scan, chunk=chunk, dtype=dtype, choice=choice)
    try:
        with torch.no_grad():
            y, after = function(*parts)
            errors = {"error": relative_error(y, expected), "state_error": relative_error(after, last)}
            return errors | bench.seconds(partial(function, *parts))
    except Exception as error:  # one that does not run takes the others with it otherwise
        return {"problem": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def devices(bench: Bench) -> dict[str, Any]:
    """A small policy in float32 here and on the processor: keys, and log-probs of the same picks."""
    small = bench.new_policy(TINY.policy.model_copy(update={"d_state": 16, "headdim": 16}))
    pictures = Bench(TINY, bench.device).frames
    rows = torch.tensor([0])

    @torch.no_grad()
    def numbers() -> list[Tensor]:
        indexed = small.index(small.encode(pictures)[None])
        picks = torch.tensor([[[3, 0, 7]]], device=small.device)
        scores = small.log_probs(indexed, small.ask(indexed, [Question("what is shown")], rows), picks)
        return [part.cpu() for part in (indexed.keys, indexed.values, scores.log_probs)]

    with torch.backends.cudnn.flags(allow_tf32=False):  # else a convolution rounds to 10 bits
        here = numbers()
    small.to("cpu")
    errors = [relative_error(a, b) for a, b in zip(here, numbers(), strict=True)]
    return dict(zip(("keys", "values", "log_probs"), errors, strict=True)) | {"agree": max(errors) < 1e-3}


# ------------------------------------------------------------------ the reference model


def reference(bench: Bench) -> dict[str, Any]:
    """A reference model scores a group: each frame looked at once and shared, against every subset for itself."""
    from refocus_video.reference.base import ScoreRequest

    model, sizes = new_reference(bench), bench.sizes
    pictures = bench.pictures(model.image_size[0])
    times = torch.arange(len(pictures)) / 4.0
    generator = torch.Generator().manual_seed(0)

    def subsets_of(frames: int) -> Tensor:
        chosen = torch.randperm(len(pictures), generator=generator)[:frames]
        rows = [chosen[torch.randperm(frames, generator=generator)[: sizes.budget]] for _ in range(sizes.group)]
        return torch.stack(rows).sort(-1).values

    def together(subsets: Tensor) -> Tensor:
        scores: list[Tensor] = model.score([ScoreRequest(model.cache(pictures), times, QUESTION, subsets)])
        return scores[0]

    def apart(subsets: Tensor) -> Tensor:
        scores = []
        for subset in subsets:
            request = ScoreRequest(model.encode(pictures[subset]), times[subset], QUESTION, all_of(subset))
            scores.append(model.score([request])[0])
        return torch.cat(scores)

    def all_of(subset: Tensor) -> Tensor:
        return torch.arange(len(subset))[None]

    rows: dict[str, Any] = {}
    for name, frames in (("new policy", len(pictures)), ("trained policy", sizes.distinct)):
        subsets = subsets_of(frames)
        distinct = len(set(subsets.flatten().tolist()))
        bench.watch_memory()
        shared = bench.seconds(partial(together, subsets), 2)
        peak = bench.peak_gb()
        alone = bench.seconds(partial(apart, subsets), 1)
        rows[name] = {
            "distinct_frames": distinct,
            "shared": shared,
            "apart": alone,
            "times_faster": digits(alone["median_s"] / shared["median_s"]),
            "less_tower_work": digits(subsets.numel() / distinct),
            "largest_difference": digits(float((together(subsets) - apart(subsets)).abs().max())),
            "peak_gb": peak,
        }
    return {
        "model": {"family": "internvl", **sizes.reference},
        "group": sizes.group,
        "budget": sizes.budget,
        "rows": rows,
    }


def new_reference(bench: Bench) -> Any:
    """An InternVL model of the bench's size with random weights and a tokenizer made here."""
    import transformers

    from refocus_video.reference.huggingface import HuggingFaceReference
    from refocus_video.reference.tiny import words_of
    from refocus_video.reference.tiny_families import family_tokenizer

    shape = bench.sizes.reference
    tokenizer = family_tokenizer(words_of([QUESTION.text, *QUESTION.options, "A B C D"]))
    text = transformers.Qwen2Config(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["width"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=32768,
        tie_word_embeddings=False,
    )
    vision = transformers.InternVLVisionConfig(
        hidden_size=shape["tower"],
        intermediate_size=shape["tower_mlp"],
        num_hidden_layers=shape["tower_layers"],
        num_attention_heads=shape["tower_heads"],
        image_size=[shape["side"]] * 2,
        patch_size=[shape["patch"]] * 2,
    )
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=(shape["side"] // shape["patch"] // 2) ** 2,
    )
    with bench.device:
        model = transformers.InternVLForConditionalGeneration(config).to(bench.dtype)
    return HuggingFaceReference(model.to(bench.device), tokenizer)


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "index": index,
    "question": question,
    "policy_step": policy_step,
    "back_ends": back_ends,
    "devices": devices,
    "reference": reference,
    "decode": decode,
}
"""The most wanted numbers first."""
