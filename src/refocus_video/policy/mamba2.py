"""The Mamba-2 backbone of the policy (METHOD §3; arXiv 2405.21060 §7, Video-Ma²mba arXiv 2411.19460).

Pre-norm residual blocks, a final norm, and three ways to run them with the same weights: a sequence continued from a
state (:meth:`Backbone.forward`; a single step is a sequence of one), and branches of a shared state
(:meth:`Backbone.branch`).

Where we differ from the released code:

1. A state is a value: running the backbone returns a new one and leaves the old one as it was, so a video's state can
   be shared by many questions, and a question's state by a group of branches.
2. Sequences of unequal length are padded on the right. Padded tokens take a step of size zero, so they leave the state
   alone, and the convolution's tail is taken from the last real tokens.
3. Residuals, norms and the recurrence are computed in float32 (or float64), whatever the weights' type; Triton kernels
   (scan.py) multiply in the weights' type and add up in float32.
4. For training on long sequences the backward pass computes cells of a few layers by one segment again, instead of
   keeping what is inside (the grid of Video-Ma²mba). A cell keeps what enters it: the residual and its layers' states.

Parameter names are those of the released checkpoints.

Legend: B sequences, Q questions, G branches per question, L tokens, D width, E inner width (expand · D),
C convolution channels (E + 2 · state size). Inside the recurrence: see ssd.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from refocus_video.config import ComputeConfig, PolicyConfig, ScanChoice
from refocus_video.device import product_dtype
from refocus_video.policy.scan import Backend, backend, scan
from refocus_video.policy.ssd import OwnTokens, ssd_branch

NORM_EPS = 1e-5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LayerState:
    """What one layer remembers of the tokens so far."""

    conv: Tensor
    """The last d_conv - 1 inputs of the convolution, (B, d_conv - 1, C)."""
    ssm: Tensor
    """State of the recurrence, (B, heads, headdim, d_state), at least float32."""


@dataclass(frozen=True, slots=True)
class State:
    """What the backbone remembers of the tokens so far: constant size, whatever the number of frames."""

    layers: tuple[LayerState, ...]

    def select(self, rows: Tensor) -> "State":
        """The states of some rows, in any order and with repetition: (R,) int64."""
        return self.map(lambda part: part.index_select(0, rows))

    def expand(self, size: int) -> "State":
        """The state of a single row seen as ``size`` rows, without copying."""
        return self.map(lambda part: part.expand(size, *part.shape[1:]))

    def detach(self) -> "State":
        """The same numbers without their gradient history."""
        return self.map(Tensor.detach)

    @staticmethod
    def stacked(states: "Sequence[State]") -> "State":
        """The rows of several states, one after the other."""
        by_layer = zip(*(state.layers for state in states), strict=True)
        return State(
            tuple(
                LayerState(torch.cat([each.conv for each in layer]), torch.cat([each.ssm for each in layer]))
                for layer in by_layer
            )
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> "State":
        """Apply a function to every tensor."""
        return State(tuple(LayerState(function(layer.conv), function(layer.ssm)) for layer in self.layers))


@dataclass(frozen=True, slots=True)
class LayerBranch:
    """What one layer remembers of the branches' own tokens."""

    conv: Tensor
    """The last d_conv - 1 inputs of the convolution, (Q, G, d_conv - 1, C)."""
    own: OwnTokens


Branches = tuple[LayerBranch, ...]


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale, computed in at least float32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) of any type -> (..., size) of the weight's type."""
        wide = _wide(x)
        return F.rms_norm(wide, self.weight.shape, self.weight.to(wide.dtype), NORM_EPS).to(self.weight.dtype)


class Mixer(nn.Module):
    """The token mixer of one block: projection, short causal convolution, SSD recurrence, gated norm, projection."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.d_state, self.headdim, self.chunk = config.d_state, config.headdim, config.chunk_size
        self.d_inner = config.expand * config.d_model
        self.num_heads = self.d_inner // self.headdim
        channels = self.d_inner + 2 * self.d_state
        self.in_proj = nn.Linear(config.d_model, self.d_inner + channels + self.num_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.d_conv, groups=channels)
        self.dt_bias = nn.Parameter(_initial_dt_bias(self.num_heads))
        self.A_log = nn.Parameter(torch.empty(self.num_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = RMSNorm(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, config.d_model, bias=False)
        with torch.no_grad():
            # Keeps the variance of the residual stream at the same size for any depth.
            self.out_proj.weight /= math.sqrt(config.n_layer)

    def initial_state(self, rows: int) -> LayerState:
        """The state before the first token."""
        weight = self.conv1d.weight
        conv = weight.new_zeros(rows, weight.shape[-1] - 1, weight.shape[0])
        ssm = _wide(weight.new_zeros(rows, self.num_heads, self.headdim, self.d_state))
        return LayerState(conv, ssm)

    def forward(
        self, x: Tensor, state: LayerState, lengths: Tensor | None = None, choice: ScanChoice = "auto"
    ) -> tuple[Tensor, LayerState]:
        """Continue B sequences from their states: (B, L, D) -> (B, L, D) and the new states.

        ``lengths`` (B,) gives the real tokens of each row when rows are padded on the right; ``choice`` is that of
        the scan's back-end.
        """
        z, xbc, dt = self._project(x)
        mixed, tail = self._convolve(xbc, state.conv, lengths)
        if lengths is not None:
            real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (B, L)
            dt = dt * real[..., None]
        inputs, log_decay, b, c, skip = self._discretise(mixed, dt)
        y, ssm = scan(inputs, log_decay, b, c, state.ssm, chunk=self.chunk, dtype=xbc.dtype, choice=choice)
        # A copy, because a view would keep the inputs of the whole sequence alive in the state.
        return self._output(y + skip, z), LayerState(tail.clone(), ssm)

    def branch(self, x: Tensor, state: LayerState, past: LayerBranch | None) -> tuple[Tensor, LayerBranch]:
        """Continue G branches of each of Q shared states: (Q, G, L, D) -> (Q, G, L, D) and the branches' memory."""
        z, xbc, dt = self._project(x)
        before = state.conv[:, None].expand(-1, x.shape[1], -1, -1) if past is None else past.conv
        mixed, tail = self._convolve(xbc, before, None)
        inputs, log_decay, b, c, skip = self._discretise(mixed, dt)
        y, own = ssd_branch(inputs, log_decay, b, c, state.ssm, past=None if past is None else past.own)
        return self._output(y + skip, z), LayerBranch(tail, own)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gate (..., E), the convolution's inputs (..., C) and the step sizes (..., heads)."""
        z, xbc, dt = self.in_proj(x).split([self.d_inner, self.d_inner + 2 * self.d_state, self.num_heads], dim=-1)
        return z, xbc, F.softplus(_wide(dt) + _wide(self.dt_bias))

    def _convolve(self, xbc: Tensor, before: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Causal convolution with SiLU over (..., L, C), and the inputs that the next tokens will need."""
        length, reach = xbc.shape[-2], before.shape[-2]
        extended = torch.cat([before, xbc], -2)  # (..., d_conv - 1 + L, C)
        kernel = self.conv1d.weight[:, 0]  # (C, d_conv)
        mixed = self.conv1d.bias if self.conv1d.bias is not None else kernel.new_zeros(())
        for i in range(reach + 1):
            mixed = torch.addcmul(mixed, extended[..., i : i + length, :], kernel[:, i])
        if lengths is None:
            tail = extended[..., length:, :]
        else:
            rows = torch.arange(len(xbc), device=xbc.device)[:, None]
            tail = extended[rows, lengths[:, None] + torch.arange(reach, device=xbc.device)]
        return F.silu(mixed), tail

    def _discretise(self, mixed: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Inputs times step sizes, log-decays, input and output directions, and the skip term, all wide."""
        x, b, c = torch.split_with_sizes(_wide(mixed), [self.d_inner, self.d_state, self.d_state], -1)
        x = torch.unflatten(x, -1, (self.num_heads, self.headdim))  # (..., h, p)
        skip = x * _wide(self.D)[:, None]
        return x * dt[..., None], -dt * _wide(self.A_log).exp(), b, c, skip

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.out_proj(self.norm(y.flatten(-2) * F.silu(_wide(z))))
        return out


class Block(nn.Module):
    """Norm and mixer; the residual is added by the backbone."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model)
        self.mixer = Mixer(config)


class Backbone(nn.Module):
    """Token embedding, Mamba-2 blocks and the final norm."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model)
        self.compute = ComputeConfig()
        """How to run; may be replaced at any time."""

    def backend(self, *, gradient: bool = False) -> Backend:
        """What computes the scan where the weights are now, inside ``torch.autocast`` or not, when a gradient is needed or not.

        Raises:
            ConfigError: when the back-end asked for cannot run there.
        """
        weight = self.embedding.weight
        return backend(self.compute.scan, weight.device, product_dtype(weight), gradient=gradient)

    def initial_state(self, rows: int) -> State:
        """The state before the first token, for a number of sequences."""
        return State(tuple(block.mixer.initial_state(rows) for block in self._blocks()))

    def forward(self, x: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Continue B sequences from their states.

        Args:
            x: embeddings, (B, L, D); right-padded when ``lengths`` is given.
            state: of the B sequences so far.
            lengths: real tokens in each row, (B,) int64; None when all rows are full.

        Returns:
            Hidden states after the final norm (B, L, D), meaningless at padded tokens, and the new state.
        """
        residual, state = self.run(x, state, lengths)
        return self.norm_f(residual), state

    def run(
        self, x: Tensor, state: State, lengths: Tensor | None = None, *, recompute: bool = False
    ) -> tuple[Tensor, State]:
        """The residual before the final norm (B, L, D), and the new state; otherwise as :meth:`forward`.

        With ``recompute`` the backward pass computes ``compute.cell_layers`` layers at a time again, and only what enters
        them is kept until then: memory for fewer kept numbers against one more forward pass.
        """
        residual = _wide(x)
        layers: list[LayerState] = []
        size = self.compute.cell_layers if recompute else len(self.layers)
        for first in range(0, len(self.layers), size):
            cell = slice(first, first + size)
            residual, after = run_cell(self._run_cell, cell, residual, state.layers[cell], lengths, recompute=recompute)
            layers += after
        return residual, State(tuple(layers))

    def _run_cell(
        self, cell: slice, residual: Tensor, states: tuple[LayerState, ...], lengths: Tensor | None
    ) -> tuple[Tensor, list[LayerState]]:
        """Some layers on one stretch of tokens."""
        layers = []
        for block, before in zip(self._blocks()[cell], states, strict=True):
            out, after = block.mixer(block.norm(residual), before, lengths, self.compute.scan)
            residual = residual + out
            layers.append(after)
        return residual, layers

    def branch(self, x: Tensor, state: State, past: Branches | None = None) -> tuple[Tensor, Branches]:
        """Continue G branches of each of Q states, which are shared and never copied.

        Args:
            x: embeddings, (Q, G, L, D).
            state: of the Q questions.
            past: what an earlier call returned, None for the branches' first tokens.

        Returns:
            Hidden states after the final norm (Q, G, L, D), and the branches' memory.
        """
        residual = _wide(x)
        layers = []
        earlier = past if past is not None else (None,) * len(self.layers)
        for block, shared, before in zip(self._blocks(), state.layers, earlier, strict=True):
            out, after = block.mixer.branch(block.norm(residual), shared, before)
            residual = residual + out
            layers.append(after)
        return self.norm_f(residual), tuple(layers)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.layers))


def run_cell(function: Callable[..., T], *args: object, recompute: bool) -> T:
    """Call a function of tensors without randomness; with ``recompute`` the backward pass calls it again."""
    if not recompute:
        return function(*args)
    found: T = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return found


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _initial_dt_bias(num_heads: int) -> Tensor:
    """Biases whose softplus is log-uniform in 1e-3..1e-1, as in the Mamba-2 paper."""
    dt = torch.empty(num_heads).uniform_(math.log(1e-3), math.log(1e-1)).exp().clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))
