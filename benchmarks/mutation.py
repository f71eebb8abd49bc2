"""How many planted faults the tests of a room find: mutmut's mutants, each in a child of one warm process.

    pip install --no-deps --target TOOL mutmut==3.8.1 libcst==1.8.6
    PYTHONPATH=TOOL python benchmarks/mutation.py ROOM [--sample 100] [--seed 1] [--longest 10] [--json FILE]
        [--only FILE] [--later NAME ...]

mutmut's own runner would import torch for every mutant and leaves out decorated functions and what new processes do.
Here a copy of the checkout is worked on. A first child runs the room's tests (of `TESTS`, fast ones) and tells which
lines each of them reached and how long it took. Then every mutant, a random sample of all, is written to the copy's
file, and into the functions of a forked child, which runs the tests that reached its statement, the shortest first,
until one fails; a statement that is reached in new processes alone, those that reached its file. Tests longer than
`--longest` seconds are left out, so the score is a lower bound. A mutant that no test reached survives; one that takes
ten times as long as its tests is found (told apart: a forked child may hang). Tests named by `--later` (a part of
their names) come after all others, so that `by` in the file tells what is found by them alone. Prints the survivors,
the score and its 95 % interval (Wilson). `--json` keeps what was judged, and the same command goes on from there;
`--only` runs those again that survived in such a file.
"""

import argparse
import ast
import contextlib
import gc
import importlib
import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import libcst as cst  # type: ignore[import-not-found]
import pytest
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace  # type: ignore[import-not-found]
from mutmut.mutation.mutators import mutation_operators  # type: ignore[import-not-found]
from mutmut.mutation.pragma_handling import IgnoredCode  # type: ignore[import-not-found]

ROOMS = {
    "metrics": ["metrics/*.py"],
    "decoding": ["decoding/*.py"],
    "hidden_states": ["hidden_states/*.py"],
    "adapters": ["adapters/_train.py", "adapters/_fit.py"],
}
TESTS = {
    "metrics": ["tests/metrics", "tests/traces/test_fit_trace.py", "tests/recorded/test_logs.py"],
    "decoding": ["tests/decoding"],
    "hidden_states": ["tests/hidden_states"],
    "adapters": ["tests/adapters"],
}

BROKEN = 3  # exit code of a child that did not come to an end


class Mutants(MutationVisitor):
    """Those of functions with decorators too: here only their code is exchanged."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        return not isinstance(node, cst.FunctionDef) and bool(super()._skip_node_and_children(node))


def mutants(root: Path, path: Path) -> list[Callable[[], dict[str, Any] | None]]:
    """All of a file, each made when it is called: its whole source with it, and the lines of its statement."""
    source = path.read_text(encoding="utf-8")
    visitor = Mutants(mutation_operators, IgnoredCode(set(), set(), set()))
    module = cst.MetadataWrapper(cst.parse_module(source)).visit(visitor)
    heads, old = statements(ast.parse(source)), source.splitlines()

    def made(number: int, mutation: Any) -> dict[str, Any] | None:
        changed = deep_replace(module, mutation.original_node, mutation.mutated_node).code
        new = changed.splitlines()
        line = next((i for i, (a, b) in enumerate(zip(old, new)) if a != b), None)
        if line is None or (head := min((h for h in heads if line + 1 in h), key=len, default=None)) is None:
            return None
        name = f"{path.relative_to(root)}:{number}"
        return {"name": name, "line": line + 1, "old": old[line].strip(), "new": new[line].strip(), "lines": head,
                "source": changed, "path": path}  # fmt: skip

    # those of a module's or class's own body are done once, at import
    inside = [
        (i, m)
        for i, m in enumerate(visitor.mutations)
        if isinstance(m.contained_by_top_level_function, cst.FunctionDef)
    ]
    return [partial(made, number, mutation) for number, mutation in inside]


def statements(tree: ast.AST) -> list[range]:
    """Lines of each statement, of a compound one those of its head; of a function's those of its first statement."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None) or (node.cases if isinstance(node, ast.Match) else None)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = [s for s in node.body if not isinstance(getattr(s, "value", None), ast.Constant)] or node.body
                found.append(range(node.lineno, inner[0].lineno + 1))
            elif body:
                first = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
                found.append(range(node.lineno, max(first.lineno, node.lineno + 1)))
            else:
                found.append(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def in_child(action: Callable[[Any], int], cpu_seconds: float | None, seconds: float | None) -> tuple[int, bytes]:
    """Exit code of a forked child (-9 when it took too long) and what it wrote; whatever it started is ended."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(read_end)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        if cpu_seconds:
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 1, int(cpu_seconds) + 2))
        code = BROKEN
        with contextlib.suppress(BaseException):
            code = action(write_end)
        os._exit(code)
    os.close(write_end)
    timer = threading.Timer(seconds, os.killpg, (child, signal.SIGKILL)) if seconds else None
    if timer:
        timer.start()
    status = os.waitpid(child, 0)[1]
    if timer:
        timer.cancel()
        timer.join()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with open(read_end, "rb") as pipe:
        return os.waitstatus_to_exitcode(status), pipe.read()


def passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    from _pytest.runner import runtestprotocol

    return all(report.outcome != "failed" for report in runtestprotocol(item, log=False, nextitem=following))


def exchange(mutant: dict[str, Any]) -> None:
    """Put the mutant into all functions of this process that were made of its file."""
    path, source = str(mutant["path"]), mutant["source"]
    codes: dict[str, CodeType] = {}

    def collect(code: CodeType) -> None:
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                codes[constant.co_qualname] = constant
                collect(constant)

    collect(compile(source, path, "exec"))
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    defaults = {min([node.lineno, *(d.lineno for d in node.decorator_list)]): node.args for node in nodes}
    for function in [f for f in gc.get_objects() if type(f) is FunctionType]:
        code = function.__code__
        if code.co_filename != path or "<locals>" in code.co_qualname or (new := codes.get(code.co_qualname)) is None:
            continue
        if new.co_code == code.co_code and new.co_consts == code.co_consts and new.co_names == code.co_names:
            pass
        elif len(new.co_freevars) == len(code.co_freevars):
            function.__code__ = new
        arguments = defaults.get(code.co_firstlineno)
        if arguments and function.__defaults__:
            given = zip(function.__defaults__, arguments.defaults)
            function.__defaults__ = tuple(literal(node, value) for value, node in given)
        if arguments and function.__kwdefaults__:
            named = {a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults) if d is not None}
            function.__kwdefaults__ = {k: literal(named[k], v) for k, v in function.__kwdefaults__.items()}


def literal(node: ast.expr, otherwise: Any) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return otherwise


class Session:
    """A pytest plugin whose loop over the tests is that over the mutants."""

    def __init__(self, root: Path, room: str, given: argparse.Namespace) -> None:
        self.root, self.room, self.given = root, room, given

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = session.items
        rng = random.Random(self.given.seed)
        paths = [path for pattern in ROOMS[self.room] for path in sorted((self.root / "egptlib").glob(pattern))]
        every = [mutant for path in paths for mutant in mutants(self.root, path)]
        if self.given.only:
            before = json.loads(self.given.only.read_text())["survived"]
            kept = {(told["name"].split(":")[0], told["old"], told["new"]) for told in before}
            made = [mutant for make in every if (mutant := make())]
            chosen = [m for m in made if (m["name"].split(":")[0], m["old"], m["new"]) in kept]
        else:
            made_of = rng.sample(every, min(self.given.sample, len(every)))
            chosen = [mutant for make in made_of if (mutant := make())]
        say(f"{self.room}: {len(every)} mutants in {len(paths)} files")
        self.reached, self.seconds = self.baseline({str(path) for path in paths})
        control = {"path": paths[-1], "source": paths[-1].read_text(encoding="utf-8")}
        tests = {t for reached in self.reached.values() for t in reached}
        assert self.outcome(control, tests)[0] == "survived", "the tests fail in a forked child without any mutant"
        outcomes: dict[str, list[dict[str, Any]]] = {outcome: [] for outcome in ("found", "timed out", "survived")}
        kept_in: Path | None = self.given.json
        if kept_in and kept_in.is_file():
            outcomes |= {k: v for k, v in json.loads(kept_in.read_text()).items() if k in outcomes}
        judged = [told for kind in outcomes.values() for told in kind]
        for number, mutant in enumerate(sorted(chosen, key=lambda m: m["name"]), 1):
            told = {key: mutant[key] for key in ("name", "line", "old", "new")}
            if told not in [{key: value for key, value in old.items() if key != "by"} for old in judged]:
                outcome, by = self.judge(mutant)
                outcomes[outcome].append(told | {"by": by})
                if kept_in:
                    kept_in.write_text(json.dumps(outcomes | {"of": len(every)}, indent=1))
                if outcome != "found":
                    say(f"{outcome}: {told['name']} line {told['line']}\n    {told['old']}\n    {told['new']}")
            if number % 20 == 0 or number == len(chosen):
                n = sum(map(len, outcomes.values()))
                killed = n - len(outcomes["survived"])
                low, high = wilson(killed, n)
                say(
                    f"{self.room}: {killed} of {n} found ({len(outcomes['timed out'])} by time), {killed / n:.1%} "
                    f"[{low:.1%}, {high:.1%}] of a sample of {len(chosen)} of {len(every)}"
                )
        return True

    def baseline(self, paths: set[str]) -> tuple[dict[tuple[str, int], set[int]], list[float]]:
        """Which tests reached each line of these files, and the seconds of each test (infinite where it failed)."""

        def action(pipe: int) -> int:
            reached: dict[tuple[str, int], set[int]] = defaultdict(set)
            current = 0

            def line(frame: FrameType, event: str, argument: Any) -> Any:
                reached[frame.f_code.co_filename, frame.f_lineno].add(current)
                return line

            def call(frame: FrameType, event: str, argument: Any) -> Any:
                return line(frame, event, argument) if frame.f_code.co_filename in paths else None

            seconds = []
            for number, item in enumerate(self.items):
                current, start = number, processor_seconds()
                threading.settrace(call)
                sys.settrace(call)
                passed = passes(item, self.items[number + 1] if number + 1 < len(self.items) else None)
                sys.settrace(None)
                seconds.append(processor_seconds() - start if passed else float("inf"))
            names = [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]
            with open(self.root / "baseline.pickle", "wb") as file:
                pickle.dump((dict(reached), seconds, names), file)
            return 0

        start = time.monotonic()
        code, _ = in_child(action, None, None)
        assert code == 0, "the tests could not be run"
        reached, seconds, names = pickle.loads((self.root / "baseline.pickle").read_bytes())
        for name in names:  # what the tests import late, so that no child does
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        failed = [item.nodeid for item, took in zip(self.items, seconds) if took == float("inf")]
        long = sum(self.given.longest < took < float("inf") for took in seconds)
        took = time.monotonic() - start
        say(f"{self.room}: {len(seconds)} tests in {took:.0f} s; left out: {long} long, failed {failed}")
        return reached, seconds

    def judge(self, mutant: dict[str, Any]) -> tuple[str, str]:
        path = str(mutant["path"])
        tests = set().union(*(self.reached.get((path, line), set()) for line in mutant["lines"]))
        return self.outcome(mutant, tests or set().union(*(t for (p, _), t in self.reached.items() if p == path)))

    def outcome(self, mutant: dict[str, Any], tests: set[int]) -> tuple[str, str]:
        """What became of it, and the test that found it."""
        path: Path = mutant["path"]
        later = [any(name in item.nodeid for name in self.given.later) for item in self.items]
        order = [t for t in tests if self.seconds[t] <= self.given.longest]
        order.sort(key=lambda t: (later[t], self.seconds[t]))
        if not order:
            return "survived", ""

        def action(pipe: int) -> int:
            exchange(mutant)
            for position, test in enumerate(order):
                following = self.items[order[position + 1]] if position + 1 < len(order) else None
                if not passes(self.items[test], following):
                    os.write(pipe, self.items[test].nodeid.encode())
                    return 1
            return 0

        whole = path.read_bytes()
        path.write_text(mutant["source"], encoding="utf-8")  # for new processes
        took = sum(self.seconds[t] for t in order)
        try:
            code, by = in_child(action, 20 + 10 * took, 120 + 60 * took)
        finally:
            path.write_bytes(whole)
        assert code != BROKEN, f"the mutant could not be put in place: {mutant}"
        return "timed out" if code < 0 else "found" if code else "survived", by.decode()


def processor_seconds() -> float:
    """Of this process and of those it waited for."""
    return sum(os.times()[:4])


def wilson(k: int, n: int) -> tuple[float, float]:
    z, p = 1.96, k / n
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def say(text: str) -> None:
    os.write(OUT, (text + "\n").encode())


def main() -> int:
    global OUT
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("room", choices=ROOMS)
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=10.0, help="processor seconds of a test that is still run")
    parser.add_argument("--json", type=lambda p: Path(p).resolve())
    parser.add_argument("--only", type=lambda p: Path(p).resolve(), help="a --json of before: its survivors again")
    parser.add_argument("--later", nargs="*", default=[], help="parts of names of tests that are run last")
    given = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    OUT = os.dup(1)
    shared = Path(os.environ.get("EGPTLIB_SHARED", root.parent / "shared")).resolve()
    with tempfile.TemporaryDirectory(prefix="egptlib-mutation-") as name:
        copy = Path(name) / "copy"
        skipped = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs", ".*_cache")
        shutil.copytree(root, copy, ignore=skipped, symlinks=True)
        os.chdir(copy)
        os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        os.environ |= {"EGPTLIB_SHARED": str(shared), "TQDM_DISABLE": "1"}
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(copy))
        options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "--rootdir", str(copy)]
        code = pytest.main([*options, *TESTS[given.room]], plugins=[Session(copy, given.room, given)])
    return int(code)


OUT = 1

if __name__ == "__main__":
    sys.exit(main())
