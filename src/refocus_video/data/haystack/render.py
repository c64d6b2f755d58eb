"""Draws a haystack world into pictures: cards and decoys over a background. Pure: arrays in, arrays out.

Pictures are SIZE×SIZE. A card is half as wide, on a grid of quarter widths, so that after scaling to 32 pixels with patches of
8 a card covers whole patches: a plain patch embedding can then read it (docs/experiments.md).
"""

import numpy as np
import numpy.typing as npt

from refocus_video.data.haystack.world import COLOR_NAMES, COLORS, Event, World
from refocus_video.types import ByteArray

SIZE = 96
CARD = SIZE // 2
STEP = SIZE // 4
BORDER = 6
GLYPH = 24
INK = (10, 10, 10)

_BITMAPS: dict[str, str] = {
    "cross": "...XX... ...XX... ...XX... XXXXXXXX XXXXXXXX ...XX... ...XX... ...XX...",
    "ring": "XXXXXXXX XXXXXXXX XX....XX XX....XX XX....XX XX....XX XXXXXXXX XXXXXXXX",
    "bars": "XXXXXXXX XXXXXXXX ........ XXXXXXXX XXXXXXXX ........ XXXXXXXX XXXXXXXX",
    "tee": "XXXXXXXX XXXXXXXX ...XX... ...XX... ...XX... ...XX... ...XX... ...XX...",
    "cup": "XX....XX XX....XX XX....XX XX....XX XX....XX XX....XX XXXXXXXX XXXXXXXX",
    "disc": "........ ..XXXX.. .XXXXXX. .XXXXXX. .XXXXXX. .XXXXXX. ..XXXX.. ........",
    "saltire": "XX....XX XXX..XXX .XXXXXX. ..XXXX.. ..XXXX.. .XXXXXX. XXX..XXX XX....XX",
    "corner": "XX...... XX...... XX...... XX...... XX...... XX...... XXXXXXXX XXXXXXXX",
    "columns": "XX.XX.XX XX.XX.XX XX.XX.XX XX.XX.XX XX.XX.XX XX.XX.XX XX.XX.XX XX.XX.XX",
    "arch": "XXXXXXXX XXXXXXXX XX....XX XX....XX XX....XX XX....XX XX....XX XX....XX",
}


def glyph_mask(name: str) -> npt.NDArray[np.bool_]:
    """The ink of a glyph, (GLYPH, GLYPH) bool."""
    rows = _BITMAPS[name].split()
    small = np.array([[cell == "X" for cell in row] for row in rows])
    return small.repeat(GLYPH // 8, 0).repeat(GLYPH // 8, 1)


def card(event: Event) -> ByteArray:
    """The picture of one card, (CARD, CARD, 3)."""
    picture = np.empty((CARD, CARD, 3), np.uint8)
    picture[:] = COLORS[event.border]
    picture[BORDER:-BORDER, BORDER:-BORDER] = COLORS[event.fill]
    margin = (CARD - GLYPH) // 2
    picture[margin:-margin, margin:-margin][glyph_mask(event.glyph)] = INK
    return picture


def background(rng: np.random.Generator, num_frames: int) -> ByteArray:
    """Two drifting waves of colour with three wandering blobs: (num_frames, SIZE, SIZE, 3)."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE
    t = np.arange(num_frames, dtype=np.float32)
    canvas = np.empty((num_frames, SIZE, SIZE, 3), np.float32)
    canvas[:] = rng.uniform(70, 150, 3)
    for _ in range(2):
        across = (x * rng.uniform(-9, 9) + y * rng.uniform(-9, 9)).astype(np.float32)
        drift = (t * rng.uniform(0.02, 0.15) + rng.uniform(0, 6.3)).astype(np.float32)
        # sin(a + b) by the sum formula: two outer products in place of a sine of every pixel of every frame.
        wave = np.sin(across)[None] * np.cos(drift)[:, None, None] + np.cos(across)[None] * np.sin(drift)[:, None, None]
        canvas += wave[..., None] * rng.uniform(-45, 45, 3).astype(np.float32)
    canvas += rng.normal(0, 5, (SIZE, SIZE, 1)).astype(np.float32)
    pictures = np.clip(canvas, 0, 255).astype(np.uint8)
    for _ in range(3):
        _draw_blob(pictures, rng)
    return pictures


def _draw_blob(pictures: ByteArray, rng: np.random.Generator) -> None:
    """A small square or disc in a card colour on a slow orbit. Smaller than a card, and without a glyph."""
    side = int(rng.integers(12, 22))
    yy, xx = np.mgrid[0:side, 0:side] - (side - 1) / 2
    mask = np.hypot(yy, xx) <= side / 2 if rng.random() < 0.5 else np.ones((side, side), bool)
    color = COLORS[COLOR_NAMES[int(rng.integers(len(COLOR_NAMES)))]]
    phase, speed, radius = rng.uniform(0, 6.3), rng.uniform(0.02, 0.12), rng.uniform(10, (SIZE - side) / 2)
    middle = (SIZE - side) / 2
    for frame, picture in enumerate(pictures):
        top = int(middle + radius * np.sin(phase + speed * frame))
        left = int(middle + radius * np.cos(phase + 0.7 * speed * frame))
        picture[top : top + side, left : left + side][mask] = color


def draw(world: World, pictures: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Draw the events of a world, and blank decoy cards between them, over a background (changed in place and returned)."""
    free = np.array([world.at(frame) < 0 for frame in range(world.num_frames)])
    for _ in range(4):
        start, length = int(rng.integers(0, world.num_frames - 4)), int(rng.integers(2, 5))
        color = COLORS[COLOR_NAMES[int(rng.integers(len(COLOR_NAMES)))]]
        top, left = (STEP * int(v) for v in rng.integers(0, 3, 2))
        for frame in range(start, start + length):
            if free[frame]:
                pictures[frame, top : top + CARD, left : left + CARD] = color
    for event in world.events:
        top, left = STEP * event.row, STEP * event.column
        pictures[event.start : event.end, top : top + CARD, left : left + CARD] = card(event)
    return pictures
