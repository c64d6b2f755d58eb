"""Videos to measure decoding on: drifting texture, moving patches and grain, each frame with its number as a barcode.

Made once and kept in a folder under a name made of all their settings.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from readers import BITS
from refocus_video.files import replacing

FPS = 25
SCENE_S = 8
_PATCHES = 6
_GRAINS = 8


@dataclass(frozen=True, slots=True)
class Clip:
    """One file."""

    title: str
    seconds: int
    width: int = 1280
    height: int = 720
    codec: str = "libx264"
    keyframe_every: int = 250
    options: tuple[tuple[str, str], ...] = (("preset", "veryfast"), ("bf", "3"), ("crf", "21"))

    @property
    def frames(self) -> int:
        """How many frames the file has."""
        return self.seconds * FPS

    def path(self, folder: Path) -> Path:
        """The file, made when it is not there yet."""
        settings = {name: value for name, value in asdict(self).items() if name != "title"}
        name = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:12]
        path = folder / f"clip-{name}.mp4"
        if not path.exists():
            with replacing(path) as temporary:
                write_clip(temporary, self)
        return path


def write_clip(path: Path, clip: Clip) -> None:
    """Encode a clip with one thread, so that the same settings give the same file."""
    options = dict(clip.options) | {"g": str(clip.keyframe_every), "keyint_min": str(min(25, clip.keyframe_every))}
    if clip.codec == "libx265":
        options["x265-params"] = "log-level=error:pools=none:frame-threads=1"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(clip.codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number, planes in enumerate(_pictures(clip)):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(clip: Clip) -> Any:
    """The frames as stored planes, (3/2 height, width) uint8: brightness above, colours below."""
    random = np.random.default_rng(0)
    width, height, drift = clip.width, clip.height, SCENE_S * FPS
    grain = random.integers(-4, 5, (_GRAINS, height, width), dtype=np.int16)
    picture = np.empty((height * 3 // 2, width), dtype=np.uint8)
    colours = picture[height:].reshape(2, height // 2, width // 2)
    for number in range(clip.frames):
        age = number % drift
        if age == 0:
            scene = _texture(random, height + 2 * drift, width + 2 * drift)
            tints = np.stack([_texture(random, height // 2 + drift, width // 2 + drift) // 2 + 64 for _ in "uv"])
            patches = random.integers(40, 216, (_PATCHES, height // 6, width // 8), dtype=np.int16)
            starts, speeds = random.random((_PATCHES, 2)), random.integers(-5, 6, (_PATCHES, 2))
        light = scene[age : age + height, 2 * age : 2 * age + width] + grain[number % _GRAINS]
        for patch, start, speed in zip(patches, starts, speeds, strict=True):
            room = np.array(light.shape) - patch.shape
            y, x = ((start * room).astype(int) + speed * age) % room
            light[y : y + patch.shape[0], x : x + patch.shape[1]] = patch[: patch.shape[0]] // 4 + 96
        _draw_number(light, number)
        picture[:height] = np.clip(light, 16, 235)
        colours[:] = tints[:, age // 2 : age // 2 + height // 2, age : age + width // 2]
        yield picture


def _texture(random: np.random.Generator, height: int, width: int) -> Any:
    """Smooth noise of several scales, (height, width) int16 in 16..235."""
    total = np.zeros((height, width), dtype=np.float32)
    for step, weight in ((128, 70.0), (32, 35.0), (8, 15.0)):
        coarse = random.random((height // step + 2, width // step + 2), dtype=np.float32) - 0.5
        rows = np.linspace(0, coarse.shape[0] - 1.001, height)
        columns = np.linspace(0, coarse.shape[1] - 1.001, width)
        y, x = rows.astype(int), columns.astype(int)
        down, right = (rows - y).astype(np.float32)[:, None], (columns - x).astype(np.float32)[None]
        upper = coarse[y][:, x] * (1 - right) + coarse[y][:, x + 1] * right
        lower = coarse[y + 1][:, x] * (1 - right) + coarse[y + 1][:, x + 1] * right
        total += 2 * weight * (upper * (1 - down) + lower * down)
    return np.clip(total + 126, 16, 235).astype(np.int16)


def _draw_number(light: Any, number: int) -> None:
    height, width = light.shape
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        light[: height // 12, left:right] = 225 if number >> bit & 1 else 25


LONG = (("preset", "veryfast"), ("bf", "3"), ("crf", "21"), ("sc_threshold", "0"))
HEVC = (("preset", "veryfast"), ("crf", "24"))
REFERENCES = (("preset", "veryfast"), ("bf", "3"), ("refs", "3"), ("crf", "21"))
CLIPS = {
    "720p": Clip("720p H.264, keyframe every 10 s", 600),
    "references": Clip("720p H.264, three reference pictures", 120, options=REFERENCES),
    "long-gop": Clip("720p H.264, keyframe every 120 s", 240, keyframe_every=3000, options=LONG),
    "hevc": Clip("720p HEVC, keyframe every 10 s", 120, codec="libx265", options=HEVC),
    "4k": Clip("4K H.264, keyframe every 10 s", 60, 3840, 2160),
}


def make_file(path: Path, seconds: int, keyframe_every: int) -> None:
    """A 1280×720 H.264 file at a path of the caller's."""
    write_clip(path, Clip("", seconds, keyframe_every=keyframe_every))
