"""A step of single subsets whose tensors stay where they are, so that a GPU can replay it.

A step of a deep backbone on one token is thousands of small kernels: the processor needs longer to start them than the GPU to
run them. A CUDA graph records them once and starts them all together. Its shapes and addresses are fixed, which suits
single subsets, whose state never grows; groups, whose own tokens do, fill the GPU anyway and take the plain step.

Only that the buffered step equals the plain one was tested without a GPU; there is a test of the graph itself for machines
that have one. No time has been measured yet: ``torch.compile(partial(advance, policy.backbone))`` fits the same place.
"""

import weakref
from threading import Lock

import torch
from torch import Tensor

from refocus_video.policy.decode import Memory, advance
from refocus_video.policy.mamba2 import Backbone, State

WARM_UP = 3
"""Plain runs before recording, in which libraries choose their kernels and take their memory."""


class CapturedStep:
    """A step in fixed buffers, replayed as a CUDA graph where the backbone is on such a device.

    The buffers belong to one decoding at a time, from its first token until its memory is forgotten; one that comes
    meanwhile, from another thread perhaps, takes the plain step. Weights may be changed in place; the buffers are made
    anew when weights have moved, or for another number of questions.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._made_for: tuple[int, ...] = ()
        self._lock = Lock()
        self._lent: weakref.ref[Memory] | None = None

    @torch.no_grad()
    def __call__(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """As :func:`advance` for single subsets; the memory that it returns is the buffers, which the next call changes."""
        assert inputs.shape[1] == 1 and memory.own is None, "only single subsets have a state of fixed size"
        if not self._holds(memory):
            with self._lock:
                if self._lent is not None and self._lent() is not None:
                    return advance(self._backbone, inputs, memory)
                self._make(len(inputs))
                _copy(memory.state, self._state)
                memory = Memory(self._state)
                self._lent = weakref.ref(memory)
        self._inputs.copy_(inputs)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        return self._hidden.clone(), memory

    def _holds(self, memory: Memory) -> bool:
        return self._lent is not None and self._lent() is memory

    def _make(self, rows: int) -> None:
        """Buffers for a number of questions, and the graph over them."""
        weights = tuple(self._backbone.parameters())
        made_for = (rows, *(weight.data_ptr() for weight in weights))
        if made_for == self._made_for:
            return
        weight = self._backbone.norm_f.weight
        self._inputs = weight.new_zeros(rows, 1, len(weight))
        self._hidden = torch.zeros_like(self._inputs)
        self._state = self._backbone.initial_state(rows)
        self._graph = self._record() if weight.is_cuda else None
        self._made_for = made_for

    def _run(self) -> None:
        hidden, state = self._backbone(self._inputs, self._state)
        self._hidden.copy_(hidden)
        _copy(state, self._state)

    def _record(self) -> torch.cuda.CUDAGraph:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._run()
        return graph


def _copy(source: State, target: State) -> None:
    for new, buffer in zip(source.layers, target.layers, strict=True):
        buffer.conv.copy_(new.conv)
        buffer.ssm.copy_(new.ssm)
