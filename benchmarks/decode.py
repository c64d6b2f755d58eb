"""Time of reading candidates against plain sequential decoding of the same file, in one run; prints JSON.

Usage: python benchmarks/decode.py [--seconds 120] [--candidates 512] [--size 384] [--keyframe-every 250]

The file is made here: moving texture at 1280×720, 25 fps, H.264 with B-frames. Times are processor seconds of
one thread. The baseline decodes every frame with PyAV and converts the wanted ones in the same way.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from machine import keep
from refocus_video.video.pixels import RgbConverter
from refocus_video.video.reader import VideoReader
from refocus_video.video.sampling import candidate_indices

WIDTH, HEIGHT, FPS = 1280, 720, 25


def make_file(path: Path, seconds: int, keyframe_every: int) -> None:
    """A scene of drifting texture, with a cut every 8 seconds."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "g": str(keyframe_every), "bf": "3", "crf": "26"}
        stream: Any = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(seconds * FPS):
            if number % (8 * FPS) == 0:
                coarse = random.integers(0, 256, (90, 160, 3), dtype=np.uint8)
                scene = coarse.repeat(16, axis=0).repeat(16, axis=1)
            y, x = number % (8 * FPS), 2 * number % (8 * FPS)
            picture = np.ascontiguousarray(scene[y : y + HEIGHT, x : x + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def sequential(path: Path, wanted: list[int], size: tuple[int, int]) -> list[np.ndarray[Any, Any]]:
    convert, rows, keep = RgbConverter(size), [], set(wanted)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = 1
        for index, frame in enumerate(container.decode(stream)):
            if index in keep:
                rows.append(convert(frame))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120, help="length of the file")
    parser.add_argument("--candidates", type=int, default=512, help="the most frames to read")
    parser.add_argument("--size", type=int, default=384, help="height and width of the pictures read")
    parser.add_argument("--keyframe-every", type=int, default=250, help="frames between keyframes")
    arguments = parser.parse_args()
    size = (arguments.size, arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.mp4"
        make_file(path, arguments.seconds, arguments.keyframe_every)
        begin = time.process_time()
        with VideoReader(path) as reader:
            open_s = time.process_time() - begin
            wanted = candidate_indices(reader.info.num_frames, reader.info.duration_s, 4.0, arguments.candidates)
            pictures = reader.read(wanted, size)
        ours = time.process_time() - begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.process_time()
        plain = sequential(path, wanted.tolist(), size)
        baseline = time.process_time() - begin
        result = {
            "frames": arguments.seconds * FPS,
            "candidates": len(wanted),
            "equal": bool((np.stack(plain) == pictures).all()),
            "open_s": round(open_s, 3),
            "reader_s": round(ours, 3),
            "sequential_s": round(baseline, 3),
            "ratio": round(ours / baseline, 3),
            "peak_mib": round(memory / 1024),
        }
    keep("decode", result)


if __name__ == "__main__":
    main()
