#!/usr/bin/env bash
# Expected: a decoder passes over words of EVT 3.0 that are no events: external triggers (0xA), others (0xE), continued (0x7, 0xF).
# Happens: expelliarmus 1.1.12 prints "event type not recognised: 0xa" from C and returns None for the whole file.
# Meets it: every recording of a camera that is synchronised with a frame camera by its trigger input.
# Do: another decoder; or strip words 0xA from the file before reading.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q expelliarmus==1.1.12 numpy==2.4.6
cd "$d"
"$d/v/bin/python" -W ignore - <<'P'
import struct
import expelliarmus
from importlib.metadata import version

print("expelliarmus", version("expelliarmus"))
header = b"% evt 3.0\n% format EVT3;height=480;width=640\n% geometry 640x480\n% end\n"
words = [0x8000, 0x6001, 0x0007, 0x2005] * 1000
for name, more in (("plain.raw", []), ("trigger.raw", [0xA101])):
    open(name, "wb").write(header + struct.pack(f"<{len(words) + len(more)}H", *words[:2000], *more, *words[2000:]))
plain = expelliarmus.Wizard(encoding="evt3", fpath="plain.raw").read()
try:
    found = expelliarmus.Wizard(encoding="evt3", fpath="trigger.raw").read()
except TypeError as error:
    found = error
print("without a trigger", len(plain), "events; with one:", repr(found))
assert len(plain) == 1000 and (found is None or isinstance(found, TypeError))
P
echo "as described"
