"""Logs of servers: vLLM's lines and counters, the serving benchmarks of vLLM and SGLang, SpecForge's benchmark files.

All of them count the target's own token in the mean acceptance length.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from egptlib.metrics import RunTotals
from egptlib.recorded._logs_fields import maybe, number, numbers

_SPEC_LINE = re.compile(
    r"SpecDecoding metrics: Mean acceptance length: (?P<length>[\d.]+), "
    r"Accepted throughput: (?P<accepted_rate>[\d.]+) tokens/s, Drafted throughput: (?P<drafted_rate>[\d.]+) tokens/s, "
    r"Accepted: (?P<accepted>\d+) tokens, Drafted: (?P<drafted>\d+) tokens, "
    r"Per-position acceptance rate: (?P<positions>[\d., ]+), Avg Draft acceptance rate: [\d.]+%"
)
_ENGINE_LINE = re.compile(r"Avg generation throughput: (?P<rate>[\d.]+) tokens/s, Running: (?P<running>\d+) reqs")
_SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>[^}]*)\})?\s+(?P<value>[-+\d.eE]+)", re.MULTILINE)
_PRINTED = {
    "Benchmark duration (s)": "duration",
    "Successful requests": "completed",
    "Total generated tokens": "total_output_tokens",
    "Mean TTFT (ms)": "mean_ttft_ms",
    "Mean TPOT (ms)": "mean_tpot_ms",
    "Mean E2E Latency (ms)": "mean_e2e_latency_ms",
    "Concurrency": "concurrency",
    "Maximum request concurrency": "max_concurrency",
    "Max request concurrency": "max_concurrency",
    "Accept length": "accept_length",
    "Acceptance length": "spec_decode_acceptance_length",
    "Drafts": "spec_decode_num_drafts",
    "Draft tokens": "spec_decode_draft_tokens",
}


def read_server_log(path: Path, text: str) -> tuple[list[RunTotals], tuple[str, ...]]:
    """Sums over the intervals of a vLLM server's log; one without `SpecDecoding metrics` is of plain decoding."""
    lines = [match.groupdict() for match in _SPEC_LINE.finditer(text)]
    engine = [(float(m["rate"]), int(m["running"])) for m in _ENGINE_LINE.finditer(text)]
    busy = [(rate, running) for rate, running in engine if rate > 0]
    batch = max(1.0, round(sum(running for _, running in busy) / len(busy))) if busy else 1.0
    notes = ("a log's intervals may hold idle time: `vllm bench serve --save-result` tells both sides better",)
    if not lines:
        if not busy:
            raise ValueError(f"{path}: no interval in which anything was written")
        rate = sum(rate for rate, _ in busy) / len(busy)
        return [RunTotals(rate, 1.0, "plain", tokens_per_pass=1.0, batch=batch)], notes
    passes = accepted = drafted = seconds = 0.0
    positions: list[float] = []
    for line in lines:
        rates = [float(rate) for rate in line["positions"].split(",")]
        own, asked = float(line["accepted"]), float(line["drafted"])
        drafts = own / sum(rates) if sum(rates) else asked / len(rates)
        positions += [0.0] * (len(rates) - len(positions))
        positions = [p + drafts * rate for p, rate in zip(positions, [*rates, *[0.0] * len(positions)])]
        passes, accepted, drafted = passes + drafts, accepted + own, drafted + asked
        seconds += asked / float(line["drafted_rate"]) if float(line["drafted_rate"]) else 0.0
    if not passes or not seconds:
        raise ValueError(f"{path}: its 'SpecDecoding metrics' lines drafted nothing")
    run = RunTotals(
        accepted + passes,
        seconds,
        path.stem,
        tokens_per_pass=1 + accepted / passes,
        gamma=drafted / passes,
        accepted_at=tuple(p / passes for p in positions),
        batch=batch,
    )
    return [run], notes


def read_metrics(path: Path, text: str) -> tuple[list[RunTotals], tuple[str, ...]]:
    """Counters of vLLM's /metrics since the server began, all engines together; seconds are the requests' own."""
    sums: dict[str, float] = {}
    positions: dict[int, float] = {}
    for match in _SAMPLE.finditer(text):
        name, value = match["name"].removesuffix("_total"), float(match["value"])
        place = re.search(r'position="(\d+)"', match["labels"] or "")
        if place and name == "vllm:spec_decode_num_accepted_tokens_per_pos":
            positions[int(place[1])] = positions.get(int(place[1]), 0.0) + value
        else:
            sums[name] = sums.get(name, 0.0) + value
    tokens, requests = (
        number(path, "metrics", sums, name)
        for name in ("vllm:generation_tokens", "vllm:e2e_request_latency_seconds_count")
    )
    seconds = number(path, "metrics", sums, "vllm:e2e_request_latency_seconds_sum")
    decode = sums.get("vllm:request_decode_time_seconds_sum")
    step = decode / (tokens - requests) if decode and tokens > requests else None
    notes = ("counters hold all requests since the server began, the first slow ones too",)
    drafts = sums.get("vllm:spec_decode_num_drafts", 0.0)
    if not drafts:
        return [RunTotals(tokens, seconds, "plain", tokens_per_pass=1.0, step_seconds=step)], notes
    accepted, drafted = (
        number(path, "metrics", sums, f"vllm:spec_decode_num_{name}_tokens") for name in ("accepted", "draft")
    )
    run = RunTotals(
        tokens,
        seconds,
        path.stem,
        tokens_per_pass=1 + accepted / drafts,
        gamma=drafted / drafts,
        accepted_at=tuple(positions[place] / drafts for place in sorted(positions)),
        step_seconds=step,
        answers=requests if step else 0.0,
    )
    return [run], notes


def read_serving(path: Path, records: Sequence[Mapping[str, Any]]) -> list[RunTotals]:
    """Results of `vllm bench serve` (`spec_decode_*`) and of `sglang.bench_serving` (`accept_length`), one a record."""
    made = []
    for place, record in enumerate(records):
        where = f"result {place}"
        tokens, seconds = (number(path, where, record, name) for name in ("total_output_tokens", "duration"))
        answers, first = number(path, where, record, "completed"), maybe(path, where, record, "mean_ttft_ms")
        whole = maybe(path, where, record, "mean_e2e_latency_ms") or maybe(path, where, record, "mean_e2el_ms")
        token = maybe(path, where, record, "mean_tpot_ms")
        step = token / 1000 if token else None
        if whole is not None and first is not None and tokens > answers:  # a mean over tokens, not over answers
            step = (whole - first) / 1000 * answers / (tokens - answers)
        vllms, sglangs = (
            maybe(path, where, record, name) for name in ("spec_decode_acceptance_length", "accept_length")
        )
        drafts, drafted = (maybe(path, where, record, f"spec_decode_{name}") for name in ("num_drafts", "draft_tokens"))
        rates = "spec_decode_per_position_acceptance_rates"
        made.append(
            RunTotals(
                tokens,
                seconds,
                path.stem,
                str(record.get("dataset_name", "")),
                tokens_per_pass=vllms or sglangs or 1.0,
                gamma=drafted / drafts if drafted and drafts else None,
                accepted_at=tuple(numbers(path, where, record, rates)) if record.get(rates) else (),
                step_seconds=step,
                batch=maybe(path, where, record, "max_concurrency") or maybe(path, where, record, "concurrency") or 1.0,
                answers=answers if step else 0.0,
            )
        )
    return made


def read_printed(path: Path, text: str) -> tuple[list[RunTotals], tuple[str, ...]]:
    """The blocks that the serving benchmarks print, one after the other."""
    blocks = text.split("Serving Benchmark Result")[1:]
    records = []
    for block in blocks:
        found = dict(re.findall(r"^([A-Z][^:\n]*):\s+([\d.]+)\s*$", block, re.MULTILINE))
        records.append({name: float(found[label]) for label, name in _PRINTED.items() if label in found})
    return read_serving(path, records), ()


def read_specforge(path: Path, records: Sequence[Mapping[str, Any]]) -> list[RunTotals]:
    """`bench_eagle3.py`: one object, benchmark -> configurations; `steps` 0 is plain decoding."""
    made = []
    for name, configurations in records[0].items():
        for place, found in enumerate(configurations if isinstance(configurations, list) else []):
            where = f"{name} {place}"
            metrics = found["metrics"]
            if not isinstance(metrics, list) or not metrics or not all(isinstance(m, dict) for m in metrics):
                raise ValueError(f"{path}: {where}: 'metrics' is {metrics!r}; expected a list of objects")
            seconds = sum(number(path, where, m, "latency") for m in metrics)
            tokens = sum(
                number(path, where, m, "latency") * number(path, where, m, "output_throughput") for m in metrics
            )
            length = sum(number(path, where, m, "accept_length") for m in metrics) / len(metrics)
            made.append(_configuration(path, where, found, str(name), tokens, seconds, length))
    return made


def read_speedup_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> list[RunTotals]:
    """`bench_model_speedup.py`: a line a configuration and benchmark."""
    made = []
    for place, record in enumerate(records):
        where = f"line {place}"
        tokens, seconds, length = (
            number(path, where, record, name) for name in ("completion_tokens", "duration", "acc_length")
        )
        made.append(_configuration(path, where, record, str(record.get("benchmark", "")), tokens, seconds, length))
    return made


def _configuration(
    path: Path, where: str, found: Mapping[str, Any], group: str, tokens: float, seconds: float, length: float
) -> RunTotals:
    steps = maybe(path, where, found, "steps") or 0.0  # null where the server was started by hand
    topk, drafted = (maybe(path, where, found, name) or 0.0 for name in ("topk", "num_draft_tokens"))
    speculative = steps > 0 or length > 1
    method = f"{group} steps {steps:.0f}, topk {topk:.0f}, {drafted:.0f} draft tokens" if speculative else "plain"
    return RunTotals(
        tokens,
        seconds,
        method,
        group,
        tokens_per_pass=length if speculative else 1.0,
        gamma=steps or None,
        batch=maybe(path, where, found, "batch_size") or 1.0,
    )
