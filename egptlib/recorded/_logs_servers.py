"""Logs of servers: vLLM's lines and counters, the serving benchmarks of vLLM and SGLang, SpecForge's benchmark files.

All of them count the target's own token in the mean acceptance length.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from egptlib.metrics import RunTotals
from egptlib.recorded._recorded import Record

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
    found = Record(path, "metrics", sums)
    tokens, requests = found.number("vllm:generation_tokens"), found.number("vllm:e2e_request_latency_seconds_count")
    seconds = found.number("vllm:e2e_request_latency_seconds_sum")
    decode = sums.get("vllm:request_decode_time_seconds_sum")
    step = decode / (tokens - requests) if decode and tokens > requests else None
    notes = ("counters hold all requests since the server began, the first slow ones too",)
    drafts = sums.get("vllm:spec_decode_num_drafts", 0.0)
    if not drafts:
        return [RunTotals(tokens, seconds, "plain", tokens_per_pass=1.0, step_seconds=step)], notes
    accepted, drafted = (found.number(f"vllm:spec_decode_num_{name}_tokens") for name in ("accepted", "draft"))
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


def read_serving(records: Sequence[Record]) -> list[RunTotals]:
    """Results of `vllm bench serve` (`spec_decode_*`) and of `sglang.bench_serving` (`accept_length`), one a record."""
    made = []
    for record in records:
        tokens, answers = record.number("total_output_tokens"), record.number("completed")
        whole = record.maybe("mean_e2e_latency_ms") or record.maybe("mean_e2el_ms")
        token, read = record.maybe("mean_tpot_ms"), record.maybe("mean_ttft_ms")
        step = token / 1000 if token else None
        if whole is not None and read is not None and tokens > answers:  # a mean over tokens, not over answers
            step = (whole - read) / 1000 * answers / (tokens - answers)
        drafts, drafted = (record.maybe(f"spec_decode_{name}") for name in ("num_drafts", "draft_tokens"))
        rates = "spec_decode_per_position_acceptance_rates"
        made.append(
            RunTotals(
                tokens,
                record.number("duration"),
                record.path.stem,
                str(record.fields.get("dataset_name", "")),
                tokens_per_pass=record.maybe("spec_decode_acceptance_length") or record.maybe("accept_length") or 1.0,
                gamma=drafted / drafts if drafted and drafts else None,
                accepted_at=tuple(record.numbers(rates)) if record.fields.get(rates) else (),
                step_seconds=step,
                batch=record.maybe("max_concurrency") or record.maybe("concurrency") or 1.0,
                answers=answers if step else 0.0,
            )
        )
    return made


def read_printed(path: Path, text: str) -> tuple[list[RunTotals], tuple[str, ...]]:
    """The blocks that the serving benchmarks print, one after the other."""
    records = []
    for place, block in enumerate(text.split("Serving Benchmark Result")[1:]):
        found = dict(re.findall(r"^([A-Z][^:\n]*):\s+([\d.]+)\s*$", block, re.MULTILINE))
        fields = {name: float(found[label]) for label, name in _PRINTED.items() if label in found}
        records.append(Record(path, f"block {place}", fields))
    return read_serving(records), ()


def read_specforge(records: Sequence[Record]) -> list[RunTotals]:
    """`bench_eagle3.py`: one object, benchmark -> configurations; `steps` 0 is plain decoding."""
    made = []
    for name, value in records[0].fields.items():
        for found in records[0].records(name) if isinstance(value, list) and value else []:
            metrics = found.records("metrics")
            seconds = sum(m.number("latency") for m in metrics)
            tokens = sum(m.number("latency") * m.number("output_throughput") for m in metrics)
            length = sum(m.number("accept_length") for m in metrics) / len(metrics)
            made.append(_configuration(found, name, tokens, seconds, length))
    return made


def read_speedup_lines(records: Sequence[Record]) -> list[RunTotals]:
    """`bench_model_speedup.py`: a line a configuration and benchmark."""
    fields = ("completion_tokens", "duration", "acc_length")
    return [
        _configuration(r, str(r.fields.get("benchmark", "")), *(r.number(name) for name in fields)) for r in records
    ]


def _configuration(found: Record, group: str, tokens: float, seconds: float, length: float) -> RunTotals:
    steps = found.maybe("steps") or 0.0  # null where the server was started by hand
    topk, drafted = (found.maybe(name) or 0.0 for name in ("topk", "num_draft_tokens"))
    speculative = steps > 0 or length > 1
    method = f"{group} steps {steps:.0f}, topk {topk:.0f}, {drafted:.0f} draft tokens" if speculative else "plain"
    return RunTotals(
        tokens,
        seconds,
        method,
        group,
        tokens_per_pass=length if speculative else 1.0,
        gamma=steps or None,
        batch=found.maybe("batch_size") or 1.0,
    )
