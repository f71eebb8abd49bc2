#!/usr/bin/env bash
# Expected: worker processes of joblib.Parallel end when the process that started them is ended by SIGTERM or SIGKILL.
# Happens: they finish the tasks they were given, and go on writing for as long as these take, although nobody waits for them.
# Meets it: an extraction over several GPUs that a batch system stops (SIGTERM first): the next one finds two writers at work in
#   its folder, or GPUs that are taken.
# Do: let each task watch os.getppid() and end with its parent; turn SIGTERM into KeyboardInterrupt, on which joblib ends them.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q joblib==1.6.0
cd "$d"
cat > work.py <<'P'
import os, time

def task(number):
    for _ in range(100):
        with open(f"ticks-{number}-{os.getpid()}", "a") as file:
            file.write("x")
        time.sleep(0.1)
P
cat > parent.py <<'P'
from joblib import Parallel, delayed
from work import task
Parallel(n_jobs=2)(delayed(task)(number) for number in range(2))
P
"$d/v/bin/python" - <<'P'
import glob, os, signal, subprocess, sys, time
import importlib.metadata as metadata

print("joblib", metadata.version("joblib"))
for number in (signal.SIGTERM, signal.SIGKILL):
    for path in glob.glob("ticks-*"):
        os.remove(path)
    parent = subprocess.Popen([sys.executable, "parent.py"], env=os.environ | {"PYTHONPATH": "."}, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while len(glob.glob("ticks-*")) < 2 and time.time() < deadline:
        time.sleep(0.05)
    parent.send_signal(number)
    parent.wait()
    before = {path: os.path.getsize(path) for path in glob.glob("ticks-*")}
    time.sleep(3)
    after = {path: os.path.getsize(path) for path in glob.glob("ticks-*")}
    more = [after[path] - before[path] for path in before]
    print(f"{number.name}: in 3 s after the parent's end its two workers wrote {more} times more")
    assert len(more) == 2 and min(more) > 10, "they ended with it: the behaviour has changed"
    for path in before:
        try:
            os.kill(int(path.rsplit("-", 1)[1]), signal.SIGKILL)
        except ProcessLookupError:
            pass
P
