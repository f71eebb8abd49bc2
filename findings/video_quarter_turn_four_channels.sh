#!/usr/bin/env bash
# Expected: decord gives [H, W, 3] for every clip, as it says.
# Happens: for a clip with a quarter turn in its display matrix (phones held upright, dashcams) decord 0.6.0 gives
#   [H, W, 4]: rows of three bytes a pixel, read as four, so that colours are mixed and a quarter of each row is empty.
# Meets it: who reads users' clips with decord, the usual reader of video language models; frame[..., :3] hides it.
# Do: refuse frames that are not [H, W, 3]; each row's first 3 * W bytes are the right picture.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q av==18.1.0 decord==0.6.0 numpy==2.4.6
cd "$d"
"$d/v/bin/python" - <<'P'
import struct
import av, decord, numpy as np

ONE = 1 << 16
stored = np.zeros((48, 64, 3), np.uint8)
stored[:24, :16], stored[24:, 48:] = (255, 0, 0), (0, 0, 255)
with av.open("clip.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=20)
    stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"crf": "1"}
    for _ in range(4):
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
    container.mux(stream.encode())
data = bytearray(open("clip.mp4", "rb").read())
at = data.find(b"tkhd") + 44
data[at : at + 36] = struct.pack(">9i", 0, ONE, 0, -ONE, 0, 0, 48 * ONE, 0, 1 << 30)  # 90 degrees clockwise
open("clip.mp4", "wb").write(data)

upright = np.rot90(stored, -1).astype(int)
frame = decord.VideoReader("clip.mp4")[0].asnumpy()
wrong = np.abs(frame[..., :3].astype(int) - upright).mean()
mended = frame.reshape(64, -1)[:, : 3 * 48].reshape(64, 48, 3)
print("decord", decord.__version__, "shape", frame.shape, "of", upright.shape)
print(f"mean difference from the upright picture: first three channels {wrong:.1f}, bytes read as RGB {np.abs(mended - upright).mean():.1f}")
assert frame.shape == (64, 48, 4) and wrong > 20 and np.abs(mended - upright).mean() < 8
P
echo "as described"
