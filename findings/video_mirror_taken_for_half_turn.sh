#!/usr/bin/env bash
# Expected: a display matrix that mirrors a clip from left to right (front cameras) mirrors it, or is ignored.
# Happens: PyAV's frame.rotation says -180 for it, as for a clip that is upside down; OpenCV and decord turn the picture by
#   180 degrees, so it comes upside down. A mirror from top to bottom is 0 degrees for all three and is not done at all.
# Meets it: who reads clips of front cameras, or turns PyAV's frames by frame.rotation.
# Do: read the nine numbers themselves (frame.side_data.get("DISPLAYMATRIX")) and apply all of a, b, c, d.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q av==18.1.0 opencv-python-headless==5.0.0.93 decord==0.6.0 numpy==2.4.6
cd "$d"
"$d/v/bin/python" - <<'P'
import struct
import av, cv2, decord, numpy as np

ONE = 1 << 16
stored = np.zeros((48, 64, 3), np.uint8)
stored[:24, :32] = 255, 255, 255  # white in the upper left quarter

def clip(path, a, d):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(open(path, "rb").read())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a * ONE, 0, 0, 0, d * ONE, 0, 0, 0, 1 << 30)
    open(path, "wb").write(data)

def corner(picture):
    parts = {"upper left": picture[:24, :32], "upper right": picture[:24, 32:],
             "lower left": picture[24:, :32], "lower right": picture[24:, 32:]}
    return max(parts, key=lambda name: parts[name].mean())

print("av", av.__version__, "opencv", cv2.__version__, "decord", decord.__version__)
for what, a, d, right, rotation, got in (("left to right", -1, 1, "upper right", -180, "lower right"),
                                         ("top to bottom", 1, -1, "lower left", 0, "upper left")):
    clip("clip.mp4", a, d)
    with av.open("clip.mp4") as container:
        says = next(container.decode(video=0)).rotation
    opencv = corner(cv2.VideoCapture("clip.mp4").read()[1])
    reader = corner(decord.VideoReader("clip.mp4")[0].asnumpy())
    print(f"mirrored {what}: white belongs {right}; PyAV's rotation {says}; OpenCV: {opencv}; decord: {reader}")
    assert says in (rotation, -rotation) and opencv == reader == got
P
echo "as described"
