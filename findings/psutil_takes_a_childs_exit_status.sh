#!/usr/bin/env bash
# Expected: a notebook's process that was ended by SIGKILL has returncode -9 in the subprocess.Popen that started it.
# Happens: where psutil has waited for the process first (`wait_procs`, `Process.wait`), it has collected the status of that
#   child: Popen.wait() finds none and says 0, which is success.
# Meets it: whoever ends runs with psutil in one place and looks at their return codes in another.
# Do: decide by what a run has left (a status file written last), not by the code; or take the code that psutil gives.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q psutil==7.2.2
"$d/v/bin/python" - <<'P'
import subprocess, sys
import psutil

print("psutil", psutil.__version__)

def killed(wait_with_psutil):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    seen = psutil.Process(child.pid)
    seen.kill()
    if wait_with_psutil:
        (ended,), _ = psutil.wait_procs([seen], timeout=10)
        print("psutil says", int(ended.returncode), end=", ")
        assert ended.returncode == -9
    return child.wait(10)

alone, after = killed(False), killed(True)
print("Popen says", after, "after it, and", alone, "without it")
assert (alone, after) == (-9, 0), "the behaviour has changed"
P
