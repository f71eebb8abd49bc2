"""A drafter in a process of its own: it reads and drafts on its own core while the target's process works.

torch releases the GIL inside an operation only: threads of one process take turns between operations, and a small
model's step is mostly that. `python -m benchmarks.decoding --only hiding` measures both kinds side by side.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from egptlib._clock import Event, Recorder
from egptlib.decoding._drafters import Draft, Drafter, KeepingDrafter, OwnWorker, Stop, write_on
from egptlib.decoding._sampling import Sampler
from egptlib.models import Model, is_left_behind

MAX_TOKENS = 512  # of one job


class _Board(ctypes.Structure):
    """What both processes see. The worker writes a token before it raises `count`, so a reader never sees half of it.

    `job` numbers the job that `count` and the arrays belong to. `stop` is the last job that is to end, `done` the last
    that has: numbers and not flags, so that no reset can race with a side that has not looked yet.
    """

    _fields_ = [
        ("job", ctypes.c_int64),
        ("stop", ctypes.c_int64),
        ("done", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("tokens", ctypes.c_int64 * MAX_TOKENS),
        ("confidence", ctypes.c_double * MAX_TOKENS),
    ]


class DrafterProcess(OwnWorker):
    """Runs a drafter in a second process; one job at a time, drafted greedily.

    The weights are shared, not copied. From `begin` to `take` the caller's torch threads are those that the worker
    leaves it, and afterwards what they were: two processes with a thread for every core each wait for one another.
    A draft holds tokens and confidences but no logits: under sampling its tokens
    count as chosen with certainty, which keeps the verifier lossless.

    Args:
        drafter: anything of the `Drafter` protocol that can be pickled and sits on the CPU.
        end_token_ids: after one of these nothing more is drafted.
        num_threads: torch threads of the worker.

    Raises:
        RuntimeError: (by every method) the worker failed or died; its traceback is in the message.
    """

    def __init__(self, drafter: Drafter, end_token_ids: Iterable[int] = (), num_threads: int = 1):
        if drafter.device.type != "cpu":
            raise ValueError(f"{drafter.name}: a drafter process runs on the CPU, found {drafter.device}")
        self.name, self.device = drafter.name, drafter.device
        # a fork would inherit torch's thread pool in pieces
        self._process, self._connection, self._board = _ahead.pop() if _ahead else _started("spawn")
        self._process.name = f"drafter {drafter.name}"
        with _hooks_put_aside(drafter), contextlib.suppress(OSError):  # the worker's death is told below
            self._connection.send((drafter, frozenset(end_token_ids), num_threads))
        self._memory: SharedMemory | None = None
        self._job, self._pending = 0, 0
        self._num_threads, self._lent = num_threads, 0  # torch threads, and those that the caller goes without
        self._kept: Any = None  # a scene, and whether the worker has it
        self._there = False
        self._events: list[Event] = []
        self._receive()  # the worker says when it is ready

    @staticmethod
    def start_ahead() -> None:
        """Fork the process that the next `DrafterProcess` takes: it need not import anything then.

        Only where no other thread runs and torch has not computed anything.
        """
        resource_tracker.ensure_running()  # one for both, or the worker's would remove what they share
        _ahead.append(_started("fork"))

    def keep(self, scene: Any) -> None:
        """As in `KeepingDrafter`; the scene itself travels once, too."""
        if scene is not self._kept:
            self._kept, self._there = scene, False

    def begin(self, scene: Any, question: str, limit: int) -> None:
        if not 0 <= limit <= MAX_TOKENS:
            raise ValueError(f"limit: expected 0 to {MAX_TOKENS} tokens, found {limit}")
        self._drain()
        self._events.clear()
        self._lend()
        kept = scene is not None and scene is self._kept
        there, self._there = kept and self._there, kept
        self._send("begin", None if there else self._share(_without_frames(scene)), kept, question, limit)

    def follow(self, answer: Sequence[int], limit: int) -> None:
        self._board.stop = self._job
        self._send("follow", list(answer), min(limit, MAX_TOKENS))

    def made(self) -> Draft:
        board = self._board
        count = board.count if board.job == self._job else 0
        return Draft(list(board.tokens[:count]), list(board.confidence[:count]))

    def is_done(self) -> bool:
        return bool(self._board.done == self._job) or not self._process.is_alive()

    def take(self) -> Draft:
        self._board.stop = self._job
        self._take_back()
        return self.made()

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        super().start(scene, question, recorder)
        self._take_back()

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        """Draft up to `count` tokens after `answer`, and wait for them."""
        self._drain()
        self._send("propose", list(answer), min(count, MAX_TOKENS))
        board, end, ended = self._board, 0, False
        while stop is not None and not ended:
            ended = self._connection.poll(5e-5)  # once more then: tokens may have come after the last look
            made = board.count if board.job == self._job else 0
            while end < made and board.stop < self._job:
                end += 1
                if stop(board.confidence[end - 1]):
                    board.stop = self._job
        self._drain()
        made = board.count if stop is None else end  # without those the worker made after it was stopped
        return Draft(list(board.tokens[:made]), list(board.confidence[:made]))

    def events(self) -> list[Event]:
        self._drain()
        events, self._events = self._events, []
        return events

    def wait(self) -> None:
        self._drain()

    def close(self) -> None:
        """End the process."""
        self._take_back()
        if self._process.is_alive():
            self._board.stop = self._job
            self._connection.close()  # the worker's next recv ends it
            self._process.join(timeout=10)
            if self._process.is_alive():
                self._process.terminate()
                self._process.join()
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None

    def _lend(self) -> None:
        """Share the cores out: the caller's torch threads are fewer by those of the worker, but at least one."""
        self._take_back()
        threads = torch.get_num_threads()
        self._lent = min(self._num_threads, threads - 1)
        if self._lent:
            torch.set_num_threads(threads - self._lent)

    def _take_back(self) -> None:
        if self._lent:
            torch.set_num_threads(torch.get_num_threads() + self._lent)
        self._lent = 0

    def _send(self, verb: str, *arguments: Any) -> None:
        self._job += 1
        self._pending += 1
        try:
            self._connection.send((verb, self._job, *arguments))
        except OSError:
            self._receive()  # says why it died

    def _drain(self) -> None:
        while self._pending:
            self._events += self._receive()
            self._pending -= 1

    def _receive(self) -> list[Event]:
        try:
            reply = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(timeout=10)
            raise RuntimeError(f"{self._process.name}: the process died, exit code {self._process.exitcode}") from None
        if isinstance(reply, str):
            self._pending = 0
            raise RuntimeError(f"{self._process.name} failed:\n{reply}")
        return reply

    def _share(self, scene: Any) -> tuple[bytes, str, list[int]]:
        """Pickle a scene with its arrays in shared memory: one copy of the pixels, and none through the pipe."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(scene, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        sizes = [view.nbytes for view in views]
        if self._memory is None or self._memory.size < sum(sizes):
            if self._memory is not None:
                self._memory.close()
                self._memory.unlink()
            self._memory = SharedMemory(create=True, size=max(1, sum(sizes)))
        place, memory = 0, self._memory.buf
        assert memory is not None
        for view in views:
            memory[place : place + view.nbytes] = view
            place += view.nbytes
        return head, self._memory.name, sizes


def _without_frames(scene: Any) -> Any:
    """The drafter sees events only; what the target sees need not travel."""
    if is_dataclass(scene) and not isinstance(scene, type) and hasattr(scene, "frames"):
        return replace(scene, frames=scene.frames[:0])
    return scene


_ahead: list[tuple[Any, Connection, Any]] = []  # started, and not taken yet


def _started(method: str) -> tuple[Any, Connection, Any]:
    """A worker's process, the caller's end of its pipe, and their board."""
    context: Any = multiprocessing.get_context(method)
    board = context.RawValue(_Board)
    ours, theirs = context.Pipe()
    inherited = ours if method == "fork" else None
    process = context.Process(target=_serve, args=(theirs, board, inherited), daemon=True)
    process.start()
    theirs.close()
    return process, ours, board


def _serve(connection: Connection, board: Any, inherited: Connection | None) -> None:
    """The worker: the drafter and jobs come through the pipe, tokens go out on the board, one reply ends each job.

    Args:
        inherited: the caller's end, which is to close when the caller ends.
    """
    if inherited is not None:
        inherited.close()
    os.setsid()  # signals to the caller's group, a notebook's interrupt too, are the caller's
    try:
        drafter, end_token_ids, num_threads = connection.recv()
    except (EOFError, OSError):  # nobody took it
        return
    torch.set_num_threads(num_threads)
    memory: SharedMemory | None = None
    scene: Any = None

    def stopped() -> bool:
        return bool(board.stop >= board.job)

    connection.send([])
    while True:
        try:
            verb, job, *arguments = connection.recv()
        except (EOFError, OSError):
            break
        recorder = Recorder()
        try:
            board.count, board.job = 0, job
            if verb == "begin":
                shared, kept, question, limit = arguments
                if shared is not None:
                    head, name, sizes = shared
                    if memory is None or memory.name != name:
                        if memory is not None:
                            memory.close()
                        memory = SharedMemory(name)
                    scene = _unpickle(head, memory, sizes)
                if isinstance(drafter, KeepingDrafter):
                    drafter.keep(scene if kept else None)
                drafter.start(scene, question, recorder)
                answer: list[int] = []
            else:
                answer, limit = arguments
            for token, confidence in write_on(drafter, answer, limit, end_token_ids, stopped, recorder):
                board.tokens[board.count], board.confidence[board.count] = token, confidence
                board.count += 1
            # who waits for a proposal stamps it himself
            connection.send(recorder.events if verb != "propose" else [])
        except BaseException:
            connection.send(traceback.format_exc())
            raise
        finally:
            board.done = job
    if memory is not None:
        memory.close()


@contextlib.contextmanager
def _hooks_put_aside(drafter: Any) -> Iterator[None]:
    """Take off, meanwhile, the hooks that transformers left on the drafter's models: they cannot be pickled."""
    aside = []
    for module in (module for model in _models(drafter) for module in model.module.modules()):
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            aside += [(hooks, key, hooks.pop(key)) for key, hook in [*hooks.items()] if is_left_behind(hook)]
    try:
        yield
    finally:
        for hooks, key, hook in aside:
            hooks[key] = hook


def _models(part: Any) -> Iterator[Model]:
    """The models of a drafter and of the drafters within it."""
    if isinstance(part, Model):
        yield part
    elif hasattr(part, "propose"):
        for inner in vars(part).values():
            yield from _models(inner)


def _unpickle(head: bytes, memory: SharedMemory, sizes: list[int]) -> Any:
    buffers, place, view = [], 0, memory.buf
    assert view is not None
    for size in sizes:
        buffers.append(bytearray(view[place : place + size]))  # a copy: the next scene overwrites the memory
        place += size
    return pickle.loads(head, buffers=buffers)
