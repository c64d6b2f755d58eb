"""What happens in a haystack video, and what can be known from a part of it. Pure: no pictures, no files.

A video holds 8 to 10 *events*. In each a card is shown for a moment: its fill colour and its glyph are unique inside the
video, and its border has the fill colour of another card of the same video (the link). Three families of questions:

====================  ==========================================================  ========
``color-to-shape``    Which shape is on the red card?                              one-hop
``shape-to-color``    Which color is the card with the cross?                      one-hop
``linked-shape``      Which shape is on the card linked from the red card?         two-hop
====================  ==========================================================  ========

All of them can be decided from a set of frames without their times. The wrong options are taken from other events of the same
video, so a wrong card is a real lure.

:func:`belief` says what an observer should believe who saw only some of the events. It is the training target of the reference
model: a model that is sure of itself on partial evidence rewards a policy for avoiding evidence.
"""

from dataclasses import dataclass

import numpy as np

from refocus_video.types import FloatArray, Question

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35),
    "orange": (255, 140, 0),
    "yellow": (245, 230, 40),
    "green": (40, 160, 50),
    "cyan": (40, 215, 225),
    "blue": (45, 75, 235),
    "purple": (140, 40, 190),
    "pink": (255, 135, 190),
    "white": (240, 240, 240),
    "gray": (130, 130, 130),
}
GLYPHS: tuple[str, ...] = (
    "cross",
    "ring",
    "bars",
    "tee",
    "cup",
    "disc",
    "saltire",
    "corner",
    "columns",
    "arch",
)
COLOR_NAMES: tuple[str, ...] = tuple(COLORS)
ONE_HOP, TWO_HOP = "one-hop", "two-hop"
HOPS: dict[str, str] = {"color-to-shape": ONE_HOP, "shape-to-color": ONE_HOP, "linked-shape": TWO_HOP}
TEMPLATES: dict[str, str] = {
    "color-to-shape": "Which shape is on the {} card?",
    "shape-to-color": "Which color is the card with the {}?",
    "linked-shape": "Which shape is on the card linked from the {} card?",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One card on screen, from frame ``start`` (included) to ``end`` (excluded)."""

    fill: str
    glyph: str
    border: str
    start: int
    end: int
    row: int
    column: int
    """Top left corner of the card on the grid of card cells, in half cards."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that was drawn into one video, apart from the background."""

    name: str
    events: tuple[Event, ...]
    num_frames: int
    fps: float

    def at(self, frame: int) -> int:
        """Position of the event shown at a frame, or -1 for none."""
        return next((i for i, event in enumerate(self.events) if event.start <= frame < event.end), -1)


@dataclass(frozen=True, slots=True)
class Probe:
    """A question about a world before it is put into words: its type and the event it starts from."""

    kind: str
    event: int


def sample_world(name: str, rng: np.random.Generator, *, num_frames: int, fps: float) -> World:
    """Draw 8 to 10 events with distinct fills and glyphs, links, and moments that do not touch each other."""
    count = int(rng.integers(8, 11))
    fills = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))[:count]]
    glyphs = [GLYPHS[i] for i in rng.permutation(len(GLYPHS))[:count]]
    borders = [fills[(i + int(rng.integers(1, count))) % count] for i in range(count)]
    lengths = rng.integers(3, 7, size=count)
    gap = 2
    slack = num_frames - int(lengths.sum()) - gap * (count - 1)
    # Random gaps that sum to the slack: uniform over all placements without overlap.
    cuts = np.sort(rng.integers(0, slack + 1, size=count))
    starts = cuts + np.concatenate(([0], np.cumsum(lengths[:-1] + gap)))
    events = tuple(
        Event(
            fill=fills[i],
            glyph=glyphs[i],
            border=borders[i],
            start=int(starts[i]),
            end=int(starts[i] + lengths[i]),
            row=int(rng.integers(0, 3)),
            column=int(rng.integers(0, 3)),
        )
        for i in range(count)
    )
    return World(name, events, num_frames, fps)


def linked(world: World, event: int) -> int:
    """The event whose fill colour the border of ``event`` shows."""
    return next(i for i, other in enumerate(world.events) if other.fill == world.events[event].border)


def needed_events(world: World, probe: Probe) -> tuple[int, ...]:
    """The events that must all be seen to answer."""
    return (probe.event, linked(world, probe.event)) if probe.kind == "linked-shape" else (probe.event,)


def vocabulary(kind: str) -> tuple[str, ...]:
    """Every word that can answer a question of this kind."""
    return COLOR_NAMES if kind == "shape-to-color" else GLYPHS


def answer_word(world: World, probe: Probe) -> str:
    """The right answer."""
    last = world.events[needed_events(world, probe)[-1]]
    return last.fill if probe.kind == "shape-to-color" else last.glyph


def ask(world: World, probe: Probe, rng: np.random.Generator) -> tuple[Question, int]:
    """Put a probe into words with four shuffled options; returns the question and the position of the answer."""
    event = world.events[probe.event]
    text = TEMPLATES[probe.kind].format(event.glyph if probe.kind == "shape-to-color" else event.fill)
    right = answer_word(world, probe)
    words = [e.fill if probe.kind == "shape-to-color" else e.glyph for e in world.events]
    lures = [word for word in words if word != right]
    options = [right, *(lures[i] for i in rng.permutation(len(lures))[:3])]
    order = rng.permutation(4)
    return Question(text, tuple(options[i] for i in order)), int(np.flatnonzero(order == 0)[0])


def belief(world: World, probe: Probe, seen: frozenset[int]) -> FloatArray:
    """What an honest observer believes about :func:`vocabulary` who saw only the events ``seen``.

    Certain when every needed event was seen; otherwise every word is as likely as any other. (Excluding the words seen on wrong
    cards would be cleverer, but then any card would be evidence, and a selector that ignores the question would look good.)

    Returns (V,) float64, summing to 1.
    """
    words = vocabulary(probe.kind)
    if seen.issuperset(needed_events(world, probe)):
        return np.array([float(word == answer_word(world, probe)) for word in words])
    return np.full(len(words), 1.0 / len(words))
