"""A drafter in a thread of this process, on a GPU with a CUDA stream of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Event as Flag
from typing import Any

import torch

from egptlib.decoding._drafters import Draft, Drafter, Stop
from egptlib.decoding._generation import Event, Recorder
from egptlib.decoding._sampling import Sampler


class DrafterThread:
    """Runs a drafter beside the target, in a second thread.

    On a GPU both models' kernels are in flight at once: the drafter's go to a stream of its own, and waiting for them
    (`egptlib.models.synchronize`) waits for that stream only. Tokens cross between the threads as plain numbers, so
    no tensor is used on a stream other than the one it was made on. On a CPU the two threads take turns at the GIL
    between operations; see `DrafterProcess`.

    Args:
        drafter: anything of the `Drafter` protocol.
        end_token_ids: after one of these nothing more is drafted.
    """

    def __init__(self, drafter: Drafter, end_token_ids: Iterable[int] = ()):
        self.drafter, self.end_token_ids = drafter, frozenset(end_token_ids)
        self.name, self.device = drafter.name, drafter.device
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"drafter {drafter.name}")
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))  # the weights have arrived
        self._flag = Flag()
        self._job: Future[None] | None = None
        self._draft, self._recorder = Draft(), Recorder()

    def begin(self, scene: Any, question: str, limit: int) -> None:
        """Let the drafter read a prompt and then draft up to `limit` tokens; returns at once."""
        self.wait()
        self._flag.clear()
        self._draft, self._recorder = Draft(), Recorder()
        self._job = self._pool.submit(self._work, scene, question, limit, self._draft, self._recorder)

    def take(self) -> Draft:
        """Stop the job and return what was drafted so far, without waiting for the token being made."""
        self._flag.set()
        return self._draft.first(len(self._draft.confidence))  # the confidence is appended last

    def start(self, scene: Any, question: str, recorder: Recorder) -> None:
        """Let the drafter read a prompt and wait for it, as any drafter does."""
        self.begin(scene, question, limit=0)
        recorder.events += self.events()

    def propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None = None) -> Draft:
        """Draft up to `count` tokens after `answer`."""
        self.wait()
        return self._pool.submit(self._propose, answer, count, sampler, stop).result()

    def events(self) -> list[Event]:
        """Return what the thread did since `begin`, without proposals; waits for the end of a stopped job."""
        self.wait()
        return self._recorder.events

    def wait(self) -> None:
        """Wait until the job has ended; an error of the drafter is raised here."""
        if self._job is not None:
            job, self._job = self._job, None
            job.result()

    def close(self) -> None:
        """End the thread."""
        self._flag.set()
        self._pool.shutdown()

    def __enter__(self) -> DrafterThread:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_stream(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _propose(self, answer: Sequence[int], count: int, sampler: Sampler, stop: Stop | None) -> Draft:
        with self._on_stream():
            draft = self.drafter.propose(answer, count, sampler, stop)
            if self._stream is not None:
                self._stream.synchronize()  # a rule reads the draft's logits on another stream
            return draft

    def _work(self, scene: Any, question: str, limit: int, out: Draft, recorder: Recorder) -> None:
        with self._on_stream():
            self.drafter.start(scene, question, recorder)
            if limit < 1:
                return
            with recorder("drafter", "draft", self.device) as info:
                info["drafted"] = 0
                greedy = Sampler()
                while len(out.tokens) < limit and not self._flag.is_set():
                    draft = self.drafter.propose(list(out.tokens), 1, greedy)
                    if not draft.tokens:
                        break
                    out.tokens.append(draft.tokens[0])
                    out.confidence.append(draft.confidence[0])
                    info["drafted"] = len(out.tokens)
                    if draft.tokens[0] in self.end_token_ids:
                        break
