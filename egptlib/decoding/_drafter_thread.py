"""A drafter in a thread of this process, on a GPU with a CUDA stream of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Event as Flag
from typing import Any

import torch

from egptlib._clock import Event, Recorder
from egptlib.decoding._drafters import Draft, Drafter, KeepingDrafter, OwnWorker, Stop, write_on
from egptlib.decoding._sampling import Sampler


class DrafterThread(OwnWorker):
    """Runs a drafter beside the target, in a second thread.

    On a GPU both models' kernels are in flight at once: the drafter's go to a stream of its own, and waiting for them
    (`egptlib._clock.synchronize`) waits for that stream only. Where both streams have kernels ready the drafter's come
    first: they are few and small, and behind a prefill's they would wait for all of it. Tokens cross between the
    threads as plain numbers, so no tensor is used on a stream other than the one it was made on.

    Both threads launch from one Python and take turns at the GIL. While a target reads its prompt that costs it
    little: a pass of a 7B model is about 40 launches a layer, 1,300 in all, some ten milliseconds of Python for
    hundreds of a card's work. A single step, in 4 bit above all, is mostly launching, so two models that step side by
    side (`pipelined_generate`) gain little in a thread; a process with a context of its own would not help, as a card
    runs one context at a time (MPS apart). No card has measured this yet. On a CPU see `DrafterProcess`.

    Args:
        drafter: anything of the `Drafter` protocol.
        end_token_ids: after one of these nothing more is drafted.
    """

    def __init__(self, drafter: Drafter, end_token_ids: Iterable[int] = ()):
        self.drafter, self.end_token_ids = drafter, frozenset(end_token_ids)
        self.name, self.device = drafter.name, drafter.device
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"drafter {drafter.name}")
        self._stream = torch.cuda.Stream(self.device, priority=-1) if self.device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # the weights have arrived
        self._flag, self._jobs = Flag(), list[Future[None]]()
        self._draft, self._recorder = Draft(), Recorder()

    def keep(self, scene: Any) -> None:
        """As in `KeepingDrafter`; nothing where the drafter is none."""
        self.wait()
        if isinstance(self.drafter, KeepingDrafter):
            self.drafter.keep(scene)

    def begin(self, scene: Any, question: str, limit: int) -> None:
        self.wait()
        self._recorder = Recorder()
        self._submit((scene, question), [], limit)

    def follow(self, answer: Sequence[int], limit: int) -> None:
        self._flag.set()
        self._submit(None, list(answer), limit)

    def made(self) -> Draft:
        count = len(self._draft.confidence)  # it is appended last
        return Draft(self._draft.tokens[:count], self._draft.confidence[:count])

    def is_done(self) -> bool:
        return not self._jobs or self._jobs[-1].done()

    def take(self) -> Draft:
        self._flag.set()
        return self.made()

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        """Draft up to `count` tokens after `answer`."""
        self.wait()
        return self._pool.submit(self._propose, answer, count, sampler, stop).result()

    def events(self) -> list[Event]:
        self.wait()
        return self._recorder.events

    def wait(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()

    def close(self) -> None:
        """End the thread."""
        self._flag.set()
        self._pool.shutdown()

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None) -> Draft:
        with self._on_stream():
            draft = self.drafter.propose(answer, count, sampler, stop)
            if self._stream is not None:
                self._stream.synchronize()  # a rule reads the draft's logits on another stream
            return draft

    def _submit(self, prompt: tuple[Any, str] | None, answer: list[int], limit: int) -> None:
        self._flag, self._draft = Flag(), Draft()  # its own ones for each job: the one before may still look at its
        job = self._pool.submit(self._work, prompt, answer, limit, self._draft, self._flag, self._recorder)
        self._jobs.append(job)

    def _work(
        self, prompt: tuple[Any, str] | None, answer: list[int], limit: int, out: Draft, flag: Flag, recorder: Recorder
    ) -> None:
        with self._on_stream():
            if prompt is not None:
                self.drafter.start(*prompt, recorder)
            for token, confidence in write_on(self.drafter, answer, limit, self.end_token_ids, flag.is_set, recorder):
                out.tokens.append(token)
                out.confidence.append(confidence)
