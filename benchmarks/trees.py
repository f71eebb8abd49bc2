"""Trees against the chains of the same drafter: tokens a target pass at as many verified tokens, and whole calls.

    python -m benchmarks.trees --adapters FOLDER --json runs/trees.json

FOLDER holds trained heads, one folder a level (E3, B1); without it EventGPT and n-grams are measured. Chains and trees
of each drafter take turns prompt by prompt, in one process, and every answer is compared with transformers'
`generate`. Asked are 1.2 tokens a pass more than the chain of as many verified tokens, and 1.08x of the best chain's
whole calls. Before that, costs are measured and acceptance by depth and rank is taken from other prompts, and the tree
and the chain are told that these make the best (`choose_tree`); "chosen" drafts as long as a token is worth what the
least token of that one is. Intervals are of whole sequences resampled. Exits non-zero when an answer is another.
"""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from egptlib._paths import write_json
from egptlib.adapters import load_adapter
from egptlib.decoding import (
    Drafter,
    HeadDrafter,
    ModelDrafter,
    NgramDrafter,
    TreeShape,
    acceptance_by_rank,
    adapted_drafter,
    as_drafter,
    speculative_generate,
)
from egptlib.measuring import Method, MethodRuns, compare_speed, report_costs, run_methods, transformers_generate
from egptlib.metrics import Costs, bootstrap, choose_tree
from egptlib.models import Pair, load_pair
from egptlib.scenes import open_scenes

BASELINE = "generate (transformers)"
DEPTH, WIDTH = 12, 3  # of the trees that acceptance is counted on
OTHERS = 40  # prompts that it is counted on, of scenes that are not timed
Prompts = list[tuple[Any, str]]


def drafters(pair: Pair, folder: Path | None, only: list[str]) -> dict[str, Drafter]:
    found: dict[str, Drafter] = {"EventGPT": as_drafter(pair.drafter, pair.target)}
    found["n-grams"] = NgramDrafter(pair.target.tokenizer)
    for level in ("E3", "B1"):
        if folder is not None and (folder / level / "adapter.json").is_file():
            found[level] = adapted_drafter(pair, load_adapter(folder / level))
    return {name: drafter for name, drafter in found.items() if name in only}


def drafting_costs(costs: Costs, pair: Pair, drafter: Drafter, prompts: Prompts) -> Costs:
    """The costs with this drafter's passes over several tokens, or a head's, by what its chains and trees took."""
    if isinstance(drafter, NgramDrafter):  # looks up
        return replace(costs, drafter_step=1e-5, drafter_passes={}, drafter_stages={})
    if isinstance(drafter, HeadDrafter):
        seconds: dict[int, list[float]] = {1: [], WIDTH: []}
        for prompt in prompts:
            for width, shape in ((1, 8), (WIDTH, TreeShape(1000, 8, WIDTH))):
                events = speculative_generate(pair.target, drafter, *prompt, gamma=shape).events
                seconds[width] += [e.seconds / 8 for e in events if e.stage == "draft" and e.info["drafted"] >= 8]
        passes = {width: median(found) for width, found in seconds.items()}
        return replace(costs, drafter_step=passes[1], drafter_passes=passes, drafter_stages={})
    assert isinstance(drafter, ModelDrafter)
    state = pair.drafter.start(*prompts[0])
    length, timed = state.length, dict[int, list[float]]()
    for _ in range(30):
        for count in range(1, 9):
            start = time.perf_counter()
            pair.drafter.step(torch.full((1, count), 7), state)
            timed.setdefault(count, []).append(time.perf_counter() - start)
            pair.drafter.rollback(state, length)
    longer = {count: median(each) - median(timed[1]) for count, each in timed.items()}
    return replace(costs, drafter_passes={n: costs.drafter_step + max(0.0, more) for n, more in longer.items()})


def sums(runs: MethodRuns) -> np.ndarray:
    """Tokens gained, target passes and tokens verified, by prompt."""
    return np.array([[sum(r.gained for r in g.rounds), len(g.rounds), sum(r.drafted for r in g.rounds)]
                     for g in runs.generations])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapters", type=Path, help="folder with trained heads, one folder a level")
    parser.add_argument("--drafters", nargs="+", default=["EventGPT", "n-grams", "E3", "B1"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5, 8, 12, 24], help="tokens verified at most")
    parser.add_argument("--scenes", type=int, default=30, help="of the test split, in a mixed order, a question each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.3, help="of the timed calls")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair, scenes = load_pair("mini"), open_scenes("streets", split="test", event_views=5)
    order = np.random.default_rng(0).permutation(len(scenes)).tolist()
    asked = [(place, scenes[place].questions[nth % 10]) for nth, place in enumerate(order[: OTHERS + arguments.scenes])]
    others: Prompts = [(scenes[place], question) for place, question in asked[:OTHERS]]
    costs = report_costs(pair, *others[0], gammas=range(0, 33, 4), repeats=9, measure_contention=False).costs
    print("v(gamma): " + ", ".join(f"{g} {costs.verify_cost(g):.2f}" for g in costs.verify))
    table: dict[str, Method] = {BASELINE: transformers_generate(pair.target, 50)}
    told: dict[str, Any] = {}
    for name, drafter in drafters(pair, arguments.adapters, arguments.drafters).items():
        ask = partial(speculative_generate, pair.target, drafter)
        wide = [ask(*prompt, gamma=TreeShape(1000, DEPTH, WIDTH)) for prompt in others]
        shares = acceptance_by_rank(wide, DEPTH, WIDTH)
        own = drafting_costs(costs, pair, drafter, others[:3])
        tree, chain = choose_tree(shares, own, 32), choose_tree(shares[:, :1], own, 32)
        told[name] = {"acceptance": shares.tolist(), "passes": own.drafter_passes, "verify": own.verify}
        print(f"{name}: acceptance of ranks at depth " + "; ".join(
            f"{d}: " + " ".join(f"{share:.2f}" for share in shares[d]) for d in (0, 1, 3, 7)
        ))  # fmt: skip
        print(f"    passes in ms: {', '.join(f'{n} {1e3 * s:.2f}' for n, s in own.drafter_passes.items())}; "
              f"chosen: {tree.size} tokens, {tree.depth} deep, {tree.width} wide, {tree.tokens:.2f} tokens a pass, "
              f"{tree.rate / chain.rate:.3f}x of the best chain ({chain.size})")  # fmt: skip
        for size in arguments.sizes:
            table[f"{name}, chain {size}"] = partial(ask, gamma=size)
            table[f"{name}, tree {size}"] = partial(ask, gamma=TreeShape(size, size, WIDTH))
        table[f"{name}, tree chosen"] = partial(ask, gamma=TreeShape(2 * tree.size, DEPTH, WIDTH, tree.least))
        table[f"{name}, chain chosen"] = partial(ask, gamma=TreeShape(2 * chain.size, 2 * chain.size, 1, chain.least))
    run_methods(table, others[:2], repeats=1, warm_ups=0)
    end = time.monotonic() + 60 * arguments.minutes
    merged, sequences = {name: MethodRuns() for name in table}, list[str]()
    for place, question in asked[OTHERS:]:
        if sequences and time.monotonic() > end:
            break
        scene = scenes[place]
        sequences.append(scene.metadata["sequence"])
        for name, runs in run_methods(table, [(scene, question)], repeats=1, warm_ups=0).items():
            for field in ("seconds", "token_ids", "identical", "generations"):
                getattr(merged[name], field).extend(getattr(runs, field))
    return show(merged, sequences, told, arguments.json)


def show(merged: dict[str, MethodRuns], sequences: list[str], told: dict[str, Any], path: Path | None) -> int:
    """Print the tables; 1 where an answer is not `generate`'s."""
    print(f"{len(sequences)} prompts, {len(set(sequences))} sequences, "
          f"identical {min(np.mean(runs.identical) for runs in merged.values()):.1%}")  # fmt: skip
    for drafter, kept in told.items():
        own = {name: runs for name, runs in merged.items() if name.startswith(f"{drafter}, ")}
        chains = {name: runs for name, runs in own.items() if " chain " in name}
        best = min(chains, key=lambda name: sum(chains[name].seconds))
        for name, runs in own.items():
            counts = sums(runs)
            gained, passes, verified = counts.sum(axis=0)
            speed, whole = (compare_speed(runs, merged[other], sequences) for other in (best, BASELINE))
            figures = {"tokens_a_pass": gained / passes, "verified": verified / passes, "generate": whole.ratio_of_sums}
            figures["best_chain"] = [speed.ratio_of_sums, speed.low, speed.high]
            line = f"{name:<22} {gained / passes:.2f} tokens a pass, {verified / passes:.1f} verified"
            line += f", of generate {whole.ratio_of_sums:.2f}x, of {best} {speed.ratio_of_sums:.3f}x"
            line += f" [{speed.low:.3f}, {speed.high:.3f}]"
            if (pair := name.replace("tree", "chain")) in chains and pair != name and "chosen" not in name:
                both = np.concatenate([counts, sums(chains[pair])], axis=1)
                more = bootstrap(both, lambda s: s[..., 0] / s[..., 1] - s[..., 3] / s[..., 4], sequences)
                figures["more_than_chain"] = list(more)
                line += f"; over its chain {more.value:+.2f} [{more.low:+.2f}, {more.high:+.2f}] tokens a pass"
            kept.setdefault("methods", {})[name] = figures
            print(line)
    if path is not None:
        write_json(path, {"sequences": sequences, "drafters": told})
    return 0 if all(all(runs.identical) for runs in merged.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
