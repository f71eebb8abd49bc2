#!/usr/bin/env bash
# Expected: a kernel whose last cell has run ends as soon as nbclient (papermill, nbconvert) asks it to: in a tenth of a second.
# Happens: where a cell has made shared memory (multiprocessing.shared_memory), the kernel
#   has a child, multiprocessing's resource tracker, that ignores SIGINT and SIGTERM. ipykernel waits for its children first,
#   until jupyter_client ends it by SIGTERM after half of shutdown_wait_time: 2.5 s a notebook, and no atexit handler runs.
# Meets it: whoever executes many short notebooks, and whose notebook has something to put away at its end.
# Do: let the tracker be no child of the kernel (start it in the process that kernels are forked from), or keep it out of
#   the kernel's process group.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q ipykernel==7.4.0 jupyter_client==8.10.0 nbclient==0.11.0
export JUPYTER_PREFER_ENV_PATH=1
"$d/v/bin/python" - "$d" <<'P'
import os, sys, time
import ipykernel, nbclient, nbformat

print("ipykernel", ipykernel.__version__, "nbclient", nbclient.__version__)

def ending(code, name):
    left = os.path.join(sys.argv[1], name)
    cells = [f"import atexit, time\natexit.register(lambda: open({left!r}, 'w').close())\n{code}", "end = 1", "time.sleep(1)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, kernel_name="python3")
    last = []
    client.on_cell_executed = lambda **_: last.append(time.perf_counter())
    client.execute()
    return time.perf_counter() - last[-1], os.path.exists(left)

plain = ending("", "plain")
shared = ending("from multiprocessing.shared_memory import SharedMemory\nm = SharedMemory(create=True, size=9)\nm.close(); m.unlink()", "shared")
print(f"ends after {plain[0]:.1f} s, atexit ran: {plain[1]}; with shared memory after {shared[0]:.1f} s, atexit ran: {shared[1]}")
assert plain[1] and plain[0] < 2 and shared[0] > 2 and not shared[1], "the behaviour has changed"
P
