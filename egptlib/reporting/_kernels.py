"""Kernels that have imported everything: forked from one process, which imports what notebooks do and runs none of it.

Half of a short notebook's time is its imports. `shared_imports` is for who runs notebooks: it starts that process,
which is this module, when the first kernel is asked for. `forked_kernels` is for who executes one. Where a fork is not
safe, and whenever anything fails here, a kernel starts as Jupyter starts it.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NoReturn

_ADDRESS = "EGPTLIB_KERNELS"  # in the environment of who executes a notebook
_ROOMS = "scenes models metrics traces recorded hidden_states adapters decoding measuring figures"
_OTHERS = "egptlib.notebook pandas matplotlib.backends.backend_pdf matplotlib_inline.backend_inline ipykernel.kernelapp"
_LONG_WORK = ("make_", "train_", "distil_", "tell_")  # of pairs: these import 4 bit and more
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # a fork does not inherit what a driver may be asked at import


@contextlib.contextmanager
def shared_imports(environment: Mapping[str, str], here: bool = True) -> Iterator[dict[str, str]]:
    """Be ready to start the process that kernels are forked from, and end it with the block.

    Args:
        environment: what its environment has besides this process's own.
        here: False: notebooks run on other machines.

    Yields:
        what is to be in the environment of `forked_kernels`.
    """
    if not here or sys.platform != "linux" or any(Path(driver).exists() for driver in _DRIVERS):
        yield {}
        return
    ours, end = socket.socketpair()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with tempfile.TemporaryDirectory(prefix="egptlib-") as folder, ours, end, listener:
        listener.bind(address := f"{folder}/kernels")
        listener.listen()
        thread = threading.Thread(target=_start_when_asked, args=(listener, ours, environment), daemon=True)
        thread.start()
        try:
            yield {_ADDRESS: address}
        finally:
            end.close()
            thread.join()


def _start_when_asked(listener: socket.socket, ended: socket.socket, environment: Mapping[str, str]) -> None:
    """Start the process at the first request; without it, nobody waits for an answer."""
    asked, _, _ = select.select([listener, ended], [], [])
    if ended in asked:
        return
    command = [sys.executable, "-m", __spec__.name, str(listener.fileno())]
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdin=subprocess.PIPE,  # its end is how the process knows that we have ended
        stdout=subprocess.DEVNULL,
        pass_fds=[listener.fileno()],
        start_new_session=True,
    ) as process:
        listener.close()  # nobody's then, should the process end
        select.select([ended], [], [])
        process.kill()


def import_ahead(shared: Mapping[str, str]) -> None:
    """Let the process import already: `shared` is what `shared_imports` yielded."""
    if address := shared.get(_ADDRESS):
        with contextlib.suppress(OSError), _connected(address):
            pass


def forked_kernels() -> dict[str, Any]:
    """What `papermill.execute_notebook` needs to be told, so that kernels are forked; nothing where they are not."""
    address = os.environ.pop(_ADDRESS, "")
    if not address:
        return {}
    import_ahead({_ADDRESS: address})  # while we do
    from jupyter_client.manager import AsyncKernelManager

    class ForkedKernelManager(AsyncKernelManager):
        async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
            try:
                process = _Forked(address, kernel_cmd, options.get("env") or dict(os.environ), options.get("cwd"))
            except (OSError, ValueError):
                await super()._async_launch_kernel(kernel_cmd, **options)
                return
            provisioner: Any = self.provisioner
            provisioner.process, provisioner.pid, provisioner.pgid = process, process.pid, process.pid

    return {"kernel_manager_class": ForkedKernelManager}


class _Forked:
    """A kernel's process as jupyter_client asks for one (`subprocess.Popen`); it ends when this object does."""

    stdin = stdout = stderr = None

    def __init__(self, address: str, command: list[str], environment: Mapping[str, str], cwd: Any) -> None:
        request = {
            "arguments": command[command.index("-f") :],
            "environment": dict(environment),
            "cwd": str(cwd or "."),
        }
        self._connection = _connected(address)
        socket.send_fds(self._connection, [json.dumps(request).encode()], [1, 2])
        self.pid = int(self._connection.recv(64))  # ValueError: it has ended

    def poll(self) -> int | None:
        with contextlib.suppress(BlockingIOError):
            self._connection.recv(1, socket.MSG_DONTWAIT)
            return 1
        return None

    def wait(self) -> int:
        self._connection.recv(1)
        self._connection.close()
        return 1

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _connected(address: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(address)
    return connection


def _serve(listener: socket.socket) -> None:
    """Fork a kernel for each request until whoever started this process has ended."""
    for name in _ROOMS.split():
        room = importlib.import_module(f"egptlib.{name}")
        for what in room.__all__:  # a room imports a name at its first use
            if not what.startswith(_LONG_WORK):
                getattr(room, what)
    for name in _OTHERS.split():
        importlib.import_module(name)
    resource_tracker.ensure_running()  # for all kernels: one waits long for a child that ignores signals before it ends
    gc.freeze()  # a collection in a kernel would look at all of it, and copy its pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who asked for a kernel sees its connection end
    while True:
        asked, _, _ = select.select([listener.fileno(), 0], [], [])
        if 0 in asked:
            return
        connection, _ = listener.accept()
        request, outputs, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        if request and os.fork() == 0:
            listener.close()
            _be_kernel(connection, json.loads(request), outputs)
        for output in outputs:
            os.close(output)
        connection.close()


def _be_kernel(connection: socket.socket, request: Mapping[str, Any], outputs: list[int]) -> NoReturn:
    """What `python -m ipykernel_launcher` is, with its imports done."""
    import random

    import numpy as np
    import torch
    from ipykernel import kernelapp

    def end_with_who_asked() -> None:
        connection.recv(1)
        os._exit(1)

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, other in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
        os.dup2(other, number)
        os.close(other)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.path.remove(sys.path[0])  # the working folder of the process before
    importlib.import_module("egptlib.decoding").DrafterProcess.start_ahead()
    sys.argv = ["ipykernel_launcher", *request["arguments"]]
    random.seed()
    np.random.seed()
    if threads := os.environ.get("OMP_NUM_THREADS"):  # it was read before
        torch.set_num_threads(int(threads))
    connection.send(str(os.getpid()).encode())
    threading.Thread(target=end_with_who_asked, daemon=True).start()
    kernelapp.launch_new_instance()
    if control := kernelapp.IPKernelApp.instance().control_thread:
        control.join(1)  # it flushes what was printed, and would wait for sockets that the exit functions have closed
    atexit._run_exitfuncs()
    gc.collect()  # what a notebook left open is written
    os._exit(0)  # taking all modules apart takes a second


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
