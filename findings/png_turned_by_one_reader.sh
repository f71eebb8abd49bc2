#!/usr/bin/env bash
# Expected: a PNG has the same pixels in every reader.
# Happens: where the PNG carries an orientation (its eXIf chunk; phones' screenshots, exporters that keep a photo's EXIF),
#   cv2.imread turns the picture, sides exchanged, and Pillow does not. Grey frames of 16 bits differ too: Pillow's
#   convert("RGB") turns every value above 255 white, while it takes the upper eight bits of 16-bit RGB, and OpenCV of both.
# Meets it: pipelines that read frames with OpenCV in one place and with Pillow in another: two sights of one file.
# Do: ImageOps.exif_transpose in Pillow; array >> 8 for mode "I;16".
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$d"
"$d/v/bin/python" - <<'P'
import cv2, numpy as np, PIL
from PIL import Image, ImageOps

print("pillow", PIL.__version__, "opencv", cv2.__version__)
orientation = Image.Exif()
orientation[0x0112] = 6  # the camera was held upright
Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)).save("turned.png", exif=orientation)
pillow, opencv = Image.open("turned.png"), cv2.imread("turned.png", cv2.IMREAD_COLOR_RGB)
print("orientation 6: Pillow", np.asarray(pillow).shape, "OpenCV", opencv.shape)
assert np.asarray(pillow).shape == (4, 6, 3) and opencv.shape == (6, 4, 3)
assert np.array_equal(np.asarray(ImageOps.exif_transpose(pillow)), opencv)

grey = np.array([[100, 1000, 20000, 65535]], np.uint16)
Image.fromarray(grey).save("grey.png")
cv2.imwrite("colour.png", np.dstack([grey] * 3))
for name in ("grey.png", "colour.png"):
    seen = np.asarray(Image.open(name).convert("RGB"))[0, :, 0].tolist(), cv2.imread(name, cv2.IMREAD_COLOR_RGB)[0, :, 0].tolist()
    print(f"{name} of 16 bits, {grey[0].tolist()}: Pillow {seen[0]}, OpenCV {seen[1]}")
    assert seen[1] == [0, 3, 78, 255] and seen[0] == ([100, 255, 255, 255] if name == "grey.png" else seen[1])
P
echo "as described"
