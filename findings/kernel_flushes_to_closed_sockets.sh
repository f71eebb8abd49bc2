#!/usr/bin/env bash
# Expected: a kernel that nbclient (papermill, nbconvert) asks to end does so in a fifth of a second, each time.
# Happens: one in some 5 to 20 kernels is ended by SIGTERM after 2.5 s instead. Its control thread has asked the main
#   thread to stop and then flushes stdout; where the main thread has closed the IOPub thread meanwhile, nobody serves the
#   flush, which waits 10 s (OutStream.flush_timeout), and the exit functions of the main thread wait for that thread.
# Meets it: whoever executes many short notebooks, or keeps something for the kernel's end: it is then killed on the way.
# Do: where you start the kernel yourself, join the control thread before the exit functions run; else do not leave to the
#   end of a kernel what has to happen.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q ipykernel==7.4.0 jupyter_client==8.10.0 nbclient==0.11.0
export JUPYTER_PREFER_ENV_PATH=1
"$d/v/bin/python" - 2>/dev/null <<'P'
import time
import ipykernel, nbclient, nbformat

print("ipykernel", ipykernel.__version__, "nbclient", nbclient.__version__)

def ending():
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), kernel_name="python3")
    last = []
    client.on_cell_executed = lambda **_: last.append(time.perf_counter())
    client.execute()
    return time.perf_counter() - last[-1]

seconds = []
while len(seconds) < 20 or max(seconds) < 2:
    seconds.append(ending())
    if len(seconds) == 200:
        break
late = [second for second in seconds if second > 2]
print(f"{len(seconds)} kernels: {len(late)} ended late, after {max(seconds):.1f} s; the median ends after {sorted(seconds)[len(seconds) // 2]:.1f} s")
assert late, "the behaviour has changed"
P
