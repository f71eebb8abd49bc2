#!/usr/bin/env bash
# Expected: reading a clip frame by frame gives its frames: as many as count_frames() says.
# Happens: imageio 2.38.1 hands mp4 to ffmpeg (imageio-ffmpeg 0.8.1, its usual plugin), which turns uneven frame times into the
#   clip's constant nominal rate: of 20 frames that are 100 ms apart at first and 20 ms later it gives some sixty, the early ones
#   five times each, and leaves later ones out altogether. count_frames() says 20, get_meta_data()["fps"] the mean rate
#   (14.7), so that times from index / fps are wrong as well. PyAV, OpenCV and decord give the 20 frames.
# Meets it: clips of phones in low light, screen recorders, frame cameras with automatic exposure or a trigger (beside event
#   cameras): frame k is not the k-th exposure, and eight evenly sampled frames show the beginning alone.
# Do: iio.imread(path, plugin="pyav"), or PyAV itself, with each frame's own time.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 pillow==13.0.0 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
from fractions import Fraction
from importlib.metadata import version

import av
import imageio.v2
import imageio.v3
import numpy as np

times = [*range(0, 1000, 100), *range(1000, 1200, 20)]  # ms
with av.open("a.mp4", "w") as out:
    stream = out.add_stream("libx264", rate=50)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    stream.codec_context.time_base = Fraction(1, 1000)
    for number, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 + 12 * number, np.uint8), "rgb24")
        frame.pts, frame.time_base = time, Fraction(1, 1000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def numbers(frames):
    return [round((float(frame[20:28, 20:28].mean()) - 10) / 12) for frame in frames]


with av.open("a.mp4") as clip:
    own = [(round(1000 * frame.time), frame.to_ndarray(format="rgb24")) for frame in clip.decode(video=0)]
assert [time for time, _ in own] == times and numbers(frame for _, frame in own) == list(range(20))
reader = imageio.v2.get_reader("a.mp4")
print("imageio", version("imageio"), "imageio-ffmpeg", version("imageio-ffmpeg"), "PyAV", av.__version__)
print("count_frames()", reader.count_frames(), "| fps", reader.get_meta_data()["fps"])
found = numbers(reader)
print(len(found), "frames come:", found)
left_out = sorted(set(range(20)) - set(found))
print("never:", left_out, "| with plugin='pyav':", len(imageio.v3.imread("a.mp4", plugin="pyav")))
assert reader.count_frames() == 20 and len(found) > 40 and left_out and found.count(0) >= 4
assert numbers(imageio.v3.imread("a.mp4", plugin="pyav")) == list(range(20))
P
echo "as described"
