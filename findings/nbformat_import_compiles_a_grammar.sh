#!/usr/bin/env bash
# Expected: nbformat, which checks notebooks against a JSON schema without any IRI in it, imports in a tenth of a second.
# Happens: with jsonschema 4.26.0 and rfc3987-syntax 1.1.0 beside it (JupyterLab brings both) each import compiles a Lark
#   grammar of IRIs, anew in every process: ten times the processor time.
# Meets it: whoever starts a process a notebook (papermill, nbconvert, nbclient): about a second each.
# Do: in a process of your own, `sys.modules["rfc3987_syntax"] = None` before nbformat: jsonschema takes it as not there.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q nbformat==5.11.1 jsonschema==4.26.0 rfc3987-syntax==1.1.0 lark==1.3.1
cd "$d"
seconds() { "$d/v/bin/python" -c "import sys, time
$1
import nbformat
print(time.process_time())"; }
seconds "" > /dev/null; seconds 'sys.modules["rfc3987_syntax"] = None' > /dev/null  # compiled files are there now
with=$(seconds ""); without=$(seconds 'sys.modules["rfc3987_syntax"] = None')
echo "nbformat 5.11.1: import takes $with s of the processor, without the grammar $without s"
"$d/v/bin/python" -c "import sys; assert float(sys.argv[1]) > 2 * float(sys.argv[2])" "$with" "$without"
echo "as described"
