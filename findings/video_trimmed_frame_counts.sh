#!/usr/bin/env bash
# Expected: the frame count of a clip is the number of frames one gets, and frame k of n is read by its index.
# Happens: of a clip trimmed without encoding again (an edit list in the mp4: QuickTime, phones), which every player shows as
#   17 frames, PyAV's stream.frames and OpenCV's CAP_PROP_FRAME_COUNT say 40; decord says 40, and gives the last frame shown
#   for all indices from 17 on, with a line about "corrupted and recovered" frames at most. With key frames close by, decord
#   says neither 20 nor 40, but 21.
# Meets it: who samples eight frames evenly from a clip by its count, as video language models do: half of them are frozen.
# Do: count what the decoder gives; PyAV's stream.index_entries without those that are is_discard are the frames shown.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q av==18.1.0 opencv-python-headless==5.0.0.93 decord==0.6.0 numpy==2.4.6
cd "$d"
"$d/v/bin/python" - <<'P' 2>stderr.txt || { cat stderr.txt; exit 1; }
import struct
import av, cv2, decord, numpy as np

def clip(path, key_frames, first, last, stored=40):
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"bf": "0", "g": str(key_frames), "crf": "1"}
        for i in range(stored):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * i, np.uint8), format="rgb24")))
        container.mux(stream.encode())
        ticks = int(1 / stream.time_base)
    data = bytearray(open(path, "rb").read())
    at = data.find(b"elst") + 12
    start = struct.unpack(">Ii", data[at : at + 8])[1]
    data[at : at + 8] = struct.pack(">Ii", 50 * (last - first), start + first * ticks // 20)
    open(path, "wb").write(data)

number = lambda frame: round(float(frame.mean()) / 6)
print("av", av.__version__, "opencv", cv2.__version__, "decord", decord.__version__)
for key_frames, first, last, says in ((250, 13, 30, 40), (10, 0, 20, 21)):
    clip("clip.mp4", key_frames, first, last)
    with av.open("clip.mp4") as container:
        stream = container.streams.video[0]
        header, index = stream.frames, sum(not entry.is_discard for entry in stream.index_entries)
        shown = [number(frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    capture, read = cv2.VideoCapture("clip.mp4"), 0
    while capture.read()[0]:
        read += 1
    opencv = int(cv2.VideoCapture("clip.mp4").get(cv2.CAP_PROP_FRAME_COUNT))
    reader = decord.VideoReader("clip.mp4")
    given = [number(reader[k].asnumpy()) for k in range(len(reader))]
    print(f"shown {len(shown)}; PyAV header {header}, index {index}; OpenCV count {opencv}, reads {read}; decord {len(reader)}: {given}")
    assert shown == list(range(first, last)) and index == read == len(shown)
    assert header == opencv == 40
    assert len(reader) == says and given[: len(shown)] == shown and set(given[len(shown) :]) == {last - 1}
P
echo "as described"
