"""Read given frames of a file with one library, in a process of its own; prints one JSON object.

    python benchmarks/readers.py refocus VIDEO --frames 15000 --count 512 --size 384

Run by decode.py. Each library is asked for what it does best: the same frames, scaled to the same size, with one decoder
thread. A library that is missing or broken is reported as such. Needs NumPy beside the library.
"""

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BITS = 16
"""Bars over the top of each picture that give its number, the lowest first."""

Pictures = Any
Read = Callable[[str, "list[int]", int], Pictures]


def refocus() -> Read:
    from refocus_video.video.reader import VideoReader

    def read(path: str, indices: list[int], side: int) -> Pictures:
        with VideoReader(path) as reader:
            return reader.read(indices, (side, side))

    return read


def sequential() -> Read:
    """PyAV, every frame decoded, the wanted ones scaled as ours are."""
    import av

    from refocus_video.video.pixels import RgbConverter

    def read(path: str, indices: list[int], side: int) -> Pictures:
        convert, wanted, rows = RgbConverter((side, side)), set(indices), []
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"
            stream.codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    rows.append(convert(frame))
                if number == indices[-1]:
                    break
        return np.stack(rows)

    return read


def decord() -> Read:
    import decord as library

    def read(path: str, indices: list[int], side: int) -> Pictures:
        return library.VideoReader(path, width=side, height=side, num_threads=1).get_batch(indices).asnumpy()

    return read


def torchcodec() -> Read:
    """Scaled while decoding, which is its cheaper way, where the version can."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    try:
        from torchcodec.transforms import Resize
    except ImportError:
        Resize = None  # a class

    def read(path: str, indices: list[int], side: int) -> Pictures:
        options: dict[str, Any] = {"num_ffmpeg_threads": 1, "seek_mode": "exact", "dimension_order": "NHWC"}
        if Resize is not None:
            decoder = VideoDecoder(path, transforms=[Resize((side, side))], **options)
            return decoder.get_frames_at(indices).data.numpy()
        decoder, parts = VideoDecoder(path, **options), []
        for start in range(0, len(indices), 16):
            frames = decoder.get_frames_at(indices[start : start + 16]).data.movedim(-1, 1)
            scaled = torch.nn.functional.interpolate(frames, (side, side), mode="bicubic", antialias=True)
            parts.append(scaled.movedim(1, -1))
        return torch.cat(parts).numpy()

    return read


READERS: dict[str, tuple[Callable[[], Read], str]] = {
    "refocus": (refocus, "av"),
    "sequential": (sequential, "av"),
    "decord": (decord, "decord"),
    "decord2": (decord, "decord2"),
    "torchcodec": (torchcodec, "torchcodec"),
}
"""How to read with each library, and the distribution that tells its version."""


def indices_of(frames: int, count: int) -> list[int]:
    """Uniform frame indices, the first and the last frame among them."""
    indices: list[int] = np.linspace(0, frames - 1, count).astype(int).tolist()
    return indices


def numbers_of(pictures: Pictures) -> list[int]:
    """The number drawn as bars over the top of each picture, (N, H, W, 3) uint8 at any size."""
    height, width = pictures.shape[1:3]
    band = pictures[:, height // 48 : height // 16].mean(axis=(1, 3))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    numbers: list[int] = ((band[:, centres] > 125) << np.arange(BITS)).sum(axis=1).tolist()
    return numbers


def measure(name: str, path: str, indices: list[int], side: int) -> dict[str, Any]:
    """Processor seconds of one read, all threads, without what importing takes."""
    load, distribution = READERS[name]
    try:
        found = version(distribution)
        read = load()
    except Exception as error:  # whatever a library's import may do
        return {"reader": name, "problem": f"not usable: {type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    begun, wall = time.process_time(), time.perf_counter()
    pictures = read(path, indices, side)
    cpu_s, wall_s = time.process_time() - begun, time.perf_counter() - wall
    right = sum(a == b for a, b in zip(numbers_of(pictures), indices, strict=True))
    return {
        "reader": name,
        "version": found,
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
        "right_frames": right,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> int | None:
    """The most resident memory of this process, libraries included; None where it is not told."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((round(int(line.split()[1]) / 1024) for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("video")
    parser.add_argument("--frames", type=int, required=True, help="how many frames the file has")
    parser.add_argument("--count", type=int, required=True, help="how many to read")
    parser.add_argument("--size", type=int, default=384, help="height and width of the pictures")
    given = parser.parse_args()
    print(json.dumps(measure(given.reader, given.video, indices_of(given.frames, given.count), given.size)))


if __name__ == "__main__":
    main()
