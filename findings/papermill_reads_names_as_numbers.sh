#!/usr/bin/env bash
# Expected: `papermill IN OUT -p scene 13_05` gives the notebook the text "13_05"; 007 and nan likewise, or something says so.
# Happens: papermill 2.7.0 tries Python's int() and float() on each value. int() passes over underscores and leading zeros
#   and takes digits of any script, so scene becomes 1305, 007 becomes 7, "1_0.5" 10.5 and a run called nan a NaN. Nothing is
#   said, and "13_5" and "1_35" are the same run. A parameter file does it too: to YAML 1.1 13_05 is 1305 and 12:30:00 is 45000.
# Meets it: sequences and scenes are called by number and date in event datasets (13_05, 00_a, 000019).
# Do: -r (--parameters_raw) for names; quotes in YAML; or compare a parameter's type with its default before the run.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q papermill==2.7.0
cd "$d"
cat > in.ipynb <<'NB'
{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"name": "python3", "language": "python", "display_name": "p"}},
 "cells": [{"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "execution_count": null, "outputs": [],
 "source": "scene = \"\"\nsequence = \"\"\nrun = \"\"\nfrom_yaml = \"\"\nraw = \"\""}]}
NB
echo "from_yaml: 13_05" > p.yaml
v/bin/papermill in.ipynb out.ipynb --prepare-only --no-progress-bar --log-level ERROR \
    -f p.yaml -p scene 13_05 -p sequence 000019 -p run nan -r raw 13_05
v/bin/papermill --version
v/bin/python - <<'PY'
import json

cells = json.load(open("out.ipynb"))["cells"]
given = "".join(cells[1]["source"])
print(given)
for line in ("scene = 1305", "sequence = 19", "run = float('nan')", "from_yaml = 1305", 'raw = "13_05"'):
    assert line in given, line
PY
