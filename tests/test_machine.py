"""CPU seconds beside wall seconds: of ourselves, of children, and of others."""

import subprocess
import sys
import time

import pytest

from egptlib._machine import Load, Meter


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_own_seconds_are_those_of_the_process_and_of_children_alive_or_ended() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\n"
    meter = Meter()
    spin(0.3)
    subprocess.run([sys.executable, "-c", work], check=True)
    alive = subprocess.Popen([sys.executable, "-c", work + "print(flush=True)\ninput()"], stdin=-1, stdout=-1)
    assert alive.stdout is not None
    alive.stdout.readline()
    load = meter.read()
    alive.communicate(b"\n")
    assert 0.85 < load.cpu_seconds < 0.9 + 1.5  # starting two interpreters takes its own
    assert load.wall_seconds * load.cores >= load.cpu_seconds - 0.1
    assert 0 <= load.others <= 1 and load.idle + load.others <= 1.1


def test_what_another_program_takes_is_counted_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    work = "import time\nwhile time.process_time() < 1: pass\n"
    shell = subprocess.run(["sh", "-c", f'nohup {sys.executable} -c "{work}" >/dev/null 2>&1 & echo $!'], stdout=-1)
    other, end = int(shell.stdout), time.monotonic() + 60  # its parent is gone: nobody's child of ours
    import psutil

    while time.monotonic() < end and psutil.pid_exists(other) and psutil.Process(other).status() != "zombie":
        time.sleep(0.05)
    load = meter.read()
    assert load.others * load.wall_seconds * load.cores > 0.8
    assert load.cpu_seconds < 0.8


@pytest.mark.parametrize(
    ("others", "idle", "disturbed"),
    [(0.05, 0.0, False), (0.4, 0.1, True), (0.4, 0.5, False), (0.0, 0.9, False), (0.11, 0.24, True)],
)
def test_others_disturb_only_where_the_cores_run_out(others: float, idle: float, disturbed: bool) -> None:
    assert Load(10.0, 9.0, others, idle, 1.0, 2).is_disturbed is disturbed
