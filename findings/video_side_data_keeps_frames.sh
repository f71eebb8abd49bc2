#!/usr/bin/env bash
# Expected: a decoded frame that nobody holds is gone, also after somebody asked it for its side data (the display matrix
# that says how a phone held the camera stands there).
# Happens: frame and side data hold each other, so the frame waits for Python's garbage collector, and with it wait its
# pixels and the two threads that PyAV starts to convert it. Without the collector 100 frames keep 200 threads.
# Meets it: whoever reads rotations frame by frame; worse where a process forks meanwhile, as the child may collect
# frames whose threads it does not have (it was seen to wait for ever).
# Do: read side data without the frame's own property where possible, or collect before forking.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/env"
"$d/env/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$d/env/bin/python" - <<'P'
import gc
import io
import os

import av
import numpy as np


def clip():
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for value in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((480, 640, 3), 10 * value, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


def read(data, look):
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(video=0):
            if look:
                len(frame.side_data)
            frame.to_ndarray(format="rgb24")


def left():
    return sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()), len(os.listdir("/proc/self/task"))


data = clip()
read(data, look=False)
gc.collect()
gc.disable()
seen = {}
for look in (False, True):
    frames, threads = left()
    for _ in range(5):
        read(data, look)
    after = left()
    seen[look] = after[0] - frames, after[1] - threads
gc.collect()
print(f"PyAV {av.__version__}: of 100 frames read, kept without the garbage collector (frames, threads):")
print(f"  side data not looked at: {seen[False]}; looked at: {seen[True]}; after a collection: {left()[0]} frames")
assert seen[False] == (0, 0) and seen[True][0] == 100 and seen[True][1] >= 100 and left()[0] == 0
P
