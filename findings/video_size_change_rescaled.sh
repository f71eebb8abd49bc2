#!/usr/bin/env bash
# Expected: where the size of the picture changes inside a video (two takes joined to one transport stream), a reader gives
#   frames of both sizes, or an error.
# Happens: OpenCV rescales the second take to the size of the first, sides squeezed, and says nothing; its frame count is that
#   of the first take alone. PyAV gives both sizes.
# Meets it: who reads surveillance and broadcast recordings: objects change their shape midway.
# Do: compare the decoder's own sizes (PyAV: frame.width, frame.height) from frame to frame.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q av==18.1.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$d"
"$d/v/bin/python" - <<'P'
import io
import av, cv2, numpy as np

def take(height, width):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = np.zeros((height, width, 3), np.uint8)
        picture[8:24, 8:24] = 255  # a square
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()

open("joined.ts", "wb").write(take(48, 64) + take(96, 64))
with av.open("joined.ts") as container:
    sizes = [(frame.height, frame.width) for frame in container.decode(video=0)]
capture, frames = cv2.VideoCapture("joined.ts"), []
count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
while True:
    ok, frame = capture.read()
    if not ok:
        break
    frames.append(frame)
square = [((frame.mean(2) > 128).any(1).sum(), (frame.mean(2) > 128).any(0).sum()) for frame in frames]
print("av", av.__version__, "opencv", cv2.__version__)
print("PyAV:", sorted(set(sizes)), "OpenCV:", {frame.shape[:2] for frame in frames}, f"{len(frames)} frames, count {count}")
print("the square in the first take", square[5], "and in the second", square[30], "(rows, columns)")
assert set(sizes) == {(48, 64), (96, 64)} and len(sizes) == len(frames) == 40 and count == 20
assert {frame.shape for frame in frames} == {(48, 64, 3)} and square[5] == (16, 16) and square[30][0] <= 10 < square[30][1]
P
echo "as described"
