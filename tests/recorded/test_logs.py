"""Logs of other programs, written here in the exact form their sources write: taken apart to the measured ratio."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egptlib._clock import Event
from egptlib.cli import app
from egptlib.metrics import RunTotals, Waterfall, explain, fit_draft_cost
from egptlib.recorded import explain_log, open_log
from egptlib.traces import Trace, TraceRow, trace_totals


def whole(waterfall: Waterfall) -> None:
    """The factors multiply to the measured ratio."""
    assert waterfall.product == pytest.approx(waterfall.measured, rel=1e-9)
    assert all(math.isfinite(factor.value) and factor.value > 0 for factor in waterfall.factors)


def spec_line(tau: float, seconds: float, accepted: int, drafted: int, rates: list[float]) -> str:
    """The format of vllm ee4ceaa, vllm/v1/spec_decode/metrics.py."""
    return (
        "(APIServer pid=1) INFO 10-26 12:36:16 [metrics.py:96] SpecDecoding metrics: "
        f"Mean acceptance length: {tau:.2f}, Accepted throughput: {accepted / seconds:.2f} tokens/s, "
        f"Drafted throughput: {drafted / seconds:.2f} tokens/s, Accepted: {accepted} tokens, "
        f"Drafted: {drafted} tokens, Per-position acceptance rate: {', '.join(f'{p:.3f}' for p in rates)}, "
        f"Avg Draft acceptance rate: {100 * accepted / drafted:.1f}%\n"
    )


def engine_line(rate: float, running: int = 1) -> str:
    return (
        f"INFO 10-26 12:36:26 [loggers.py:127] Engine 000: Avg prompt throughput: 0.0 tokens/s, Avg generation "
        f"throughput: {rate:.1f} tokens/s, Running: {running} reqs, Waiting: 0 reqs, GPU KV cache usage: 1.9%, Prefix "
        "cache hit rate: 37.2%\n"
    )


def test_the_log_of_a_vllm_server(tmp_path: Path) -> None:
    # 203 drafts of 3 in 10 s, then 100 in 5 s
    text = spec_line(2.01, 10, 206, 609, [122 / 203, 58 / 203, 26 / 203]) + engine_line(40.9)
    text += spec_line(2.5, 5, 150, 300, [0.8, 0.5, 0.2]) + engine_line(0.0, 0)
    (tmp_path / "spec.log").write_text(text)
    (tmp_path / "plain.log").write_text(engine_line(0.0, 0) + engine_line(20.0) + engine_line(22.0))
    log = open_log(tmp_path / "spec.log")
    (run,) = log.runs
    assert log.kind == "vllm-log"
    assert run.gamma == pytest.approx(909 / 303, rel=2e-3)
    assert run.tokens_per_pass == pytest.approx(1 + 356 / 303, rel=2e-3)
    assert run.tokens / run.seconds == pytest.approx((356 + 303) / 15, rel=2e-3)
    assert run.accepted_at == pytest.approx(((122 + 80) / 303, (58 + 50) / 303, (26 + 20) / 303), rel=3e-3)
    with pytest.raises(ValueError, match=r"spec\.log: vllm-log holds no plain decoding; --baseline"):
        explain_log(log)
    (found,) = explain_log(log, open_log(tmp_path / "plain.log"), draft_cost=0.1)
    whole(found)
    assert found.measured == pytest.approx(659 / 15 / 21, rel=2e-3)
    assert [f.name for f in found.factors] == ["acceptance", "draft cost", "verify cost"]
    # a draft half as long: by position, what was accepted at the first alone
    assert found.changes["gamma 1"] > 0


def test_the_counters_of_a_vllm_server(tmp_path: Path) -> None:
    def metrics(drafts: int, tokens: int, seconds: float, decode: float) -> str:
        labels = 'engine="0",model_name="m"'
        lines = [
            "# HELP vllm:generation_tokens_total Number of generation tokens processed.",
            f"vllm:generation_tokens_total{{{labels}}} {float(tokens)}",
            f"vllm:e2e_request_latency_seconds_count{{{labels}}} 10.0",
            f"vllm:e2e_request_latency_seconds_sum{{{labels}}} {seconds}",
            f'vllm:e2e_request_latency_seconds_bucket{{{labels},le="0.3"}} 0.0',
            f"vllm:request_decode_time_seconds_sum{{{labels}}} {decode}",
        ]
        if drafts:
            lines += [f"vllm:spec_decode_num_drafts_total{{{labels}}} {float(drafts)}"]
            lines += [f"vllm:spec_decode_num_drafts_created{{{labels}}} 1.7e+09"]
            lines += [f"vllm:spec_decode_num_draft_tokens_total{{{labels}}} {3.0 * drafts}"]
            lines += [f"vllm:spec_decode_num_accepted_tokens_total{{{labels}}} {1.5 * drafts}"]
            for place, rate in enumerate((0.8, 0.5, 0.2)):
                name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
                lines.append(f'{name}{{{labels},position="{place}"}} {rate * drafts}')
        return "\n".join(lines) + "\n"

    (tmp_path / "spec.txt").write_text(metrics(400, 1010, 12.0, 10.0))
    (tmp_path / "plain.txt").write_text(metrics(0, 1010, 22.0, 20.0))
    (run,) = open_log(tmp_path / "spec.txt").runs
    assert (run.gamma, run.tokens_per_pass, run.step_seconds) == (3, 2.5, 0.01)
    assert run.accepted_at == pytest.approx((0.8, 0.5, 0.2))
    (found,) = explain_log(open_log(tmp_path / "spec.txt"), open_log(tmp_path / "plain.txt"))
    whole(found)
    assert found.measured == pytest.approx(22 / 12)
    assert found.round_cost == pytest.approx(2.5 / 2)  # decoding alone is twice as fast
    assert [f.name for f in found.factors] == ["acceptance", "cost of a round", "prefill and overhead"]
    assert found.factors[-1].value == pytest.approx(22 / 12 / 2)


def serving(speculative: bool, batch: int, seconds: float, tpot: float) -> dict:
    """As `sglang.bench_serving` of sglang 0033168 appends it."""
    return {
        "backend": "sglang", "dataset_name": "mmmu", "request_rate": float("inf"), "max_concurrency": batch,
        "duration": seconds, "completed": 50, "total_input_tokens": 9000, "total_output_tokens": 5050,
        "output_throughput": 5050 / seconds, "mean_e2e_latency_ms": 200 + 100 * tpot, "mean_ttft_ms": 200.0,
        "mean_tpot_ms": tpot * 0.97, "concurrency": batch * 0.99, "accept_length": 2.4 if speculative else None,
    }  # fmt: skip


def test_the_lines_of_sglangs_serving_benchmark(tmp_path: Path) -> None:
    rows = [(False, 1, 60.0, 10.0), (True, 1, 40.0, 6.0), (False, 8, 20.0, 25.0), (True, 8, 18.0, 22.0)]
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(serving(*row)) + "\n" for row in rows).replace("Infinity", '"inf"'))
    one, eight = explain_log(open_log(path))
    whole(one)
    whole(eight)
    assert one.measured == pytest.approx(1.5)
    assert eight.measured == pytest.approx(20 / 18)
    assert one.round_cost == pytest.approx(2.4 / (10 / 6))  # from the means, not from the mean of ratios
    assert eight.factors[-1].name == "batch"
    assert eight.factors[-1].value == pytest.approx(20 / 18 / 1.5)


def test_what_the_serving_benchmarks_print(tmp_path: Path) -> None:
    def block(duration: float, tpot: float, length: float | None) -> str:
        lines = [
            "============ Serving Benchmark Result ============",
            "Successful requests:                     50        ",
            "Maximum request concurrency:             2         ",
            f"Benchmark duration (s):                  {duration:<10.2f}",
            "Total generated tokens:                  5050      ",
            "---------------Time to First Token----------------",
            "Mean TTFT (ms):                          200.00    ",
            "-----Time per Output Token (excl. 1st token)------",
            f"Mean TPOT (ms):                          {tpot:<10.2f}",
        ]
        if length:
            lines += ["---------------Speculative Decoding---------------"]
            lines += [f"Acceptance length:                       {length:<10.2f}", "Drafts:                 2000      "]
            lines += ["Draft tokens:                            6000      "]
        return "\n".join([*lines, "=" * 50, ""])

    (tmp_path / "both.txt").write_text(block(40.0, 14.0, None) + block(32.0, 10.0, 2.5))
    (found,) = explain_log(open_log(tmp_path / "both.txt"))
    whole(found)
    assert found.measured == pytest.approx(1.25)
    assert found.start == 4
    assert found.round_cost == pytest.approx(2.5 / 1.4)


# bs, steps, topk, draft tokens, throughput, accept length: Tencent/AngelSlim issue 163 (Qwen3-30B-A3B, 4 x H100)
ANGELSLIM = [
    (1, 0, 0, 0, 218.89, 1.0), (8, 0, 0, 0, 677.14, 1.0), (64, 0, 0, 0, 1237.84, 1.0),
    (1, 4, 4, 16, 185.64, 2.542), (8, 4, 4, 16, 673.14, 2.578), (64, 4, 4, 16, 1307.95, 2.553),
]  # fmt: skip


def test_specforges_benchmark_file(tmp_path: Path) -> None:
    configurations = [
        {
            "batch_size": batch, "steps": steps, "topk": topk, "num_draft_tokens": drafted, "num_samples": 80,
            "metrics": [{"latency": 900.0, "output_throughput": rate, "accept_length": length, "accuracy": None,
                         "num_questions": 80, "num_valid_predictions": 0, "categorical_performance": None}],
        }
        for batch, steps, topk, drafted, rate, length in ANGELSLIM
    ]  # fmt: skip
    path = tmp_path / "results_20251208.jsonl"  # as it names it, though it is one document over many lines
    path.write_text(json.dumps({"model": "draft", "mtbench": configurations}, indent=4))
    found = explain_log(open_log(path))
    assert [round(w.measured, 3) for w in found] == [0.848, 0.994, 1.057]
    for waterfall in found:
        whole(waterfall)
        assert waterfall.factors[0].value == pytest.approx(2.542 / 5)  # the batch of one tells
    assert found[2].factors[-1].value == pytest.approx((1307.95 / 1237.84) / (185.64 / 218.89))  # it gains by the batch
    lines = tmp_path / "output.jsonl"
    with lines.open("w") as file:
        for batch, steps, topk, drafted, rate, length in ANGELSLIM[:1] + ANGELSLIM[3:4]:
            record: dict = {"batch_size": batch, "steps": steps, "topk": topk, "num_draft_tokens": drafted}
            record |= {"acc_length": length, "duration": 100.0, "throughput": rate, "benchmark": "mtbench"}
            file.write(json.dumps(record | {"completion_tokens": rate * 100}) + "\n")
    (again,) = explain_log(open_log(lines))
    assert again.measured == pytest.approx(found[0].measured)


def answers(speculative: bool, seed: int = 0) -> list[dict]:
    """As Spec-Bench 70f8b28 writes them: two turns a question, accepted lengths with the target's own token."""
    random.seed(seed)
    made = []
    for question in range(20):
        new = [random.randint(20, 200), random.randint(20, 200)]
        lengths = [1] * sum(new)
        if speculative:
            lengths = [4] * (sum(new) // 4) + ([sum(new) % 4] if sum(new) % 4 else [])
        wall = [0.03 * n / (1.8 if speculative else 1.0) for n in new]
        choice = {"index": 0, "turns": ["a", "b"], "decoding_steps": [len(lengths) // 2] * 2, "new_tokens": new}
        choice |= {"wall_time": wall, "accept_lengths": lengths}
        made.append(
            {"question_id": question, "category": "writing", "answer_id": "x", "model_id": "eagle", "tstamp": 1.0}
        )
        made[-1]["choices"] = [choice]
    return made


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_spec_bench_and_its_trace(tmp_path: Path) -> None:
    spec = open_log(write_lines(tmp_path / "eagle.jsonl", answers(True)))
    plain = open_log(write_lines(tmp_path / "vanilla.jsonl", answers(False)))
    assert (len(spec.runs), len(plain.plain), spec.kind) == (1, 1, "spec-bench")
    (found,) = explain_log(spec, plain, gamma=5)
    whole(found)
    assert found.measured == pytest.approx(1.8)
    assert found.start == 6
    trace = spec.trace()
    assert [row.sample for row in trace.rows] == [str(n) for n in range(20)]
    tokens = [sum(record["choices"][0]["new_tokens"]) for record in answers(True)]
    assert trace.lengths.tolist() == tokens
    (without,) = explain_log(spec, plain)
    whole(without)
    assert without.start == pytest.approx(spec.runs[0].tokens_per_pass)


def test_mmspec_counts_without_the_targets_own_token(tmp_path: Path) -> None:
    records = answers(True)
    for record in records:
        choice = record["choices"][0]
        lengths = [length - 1 for length in choice.pop("accept_lengths")]
        half = len(lengths) // 2
        choice["acceptance_length"] = [lengths[:half], lengths[half:]]  # a list a turn
        choice["idxs"] = [half, len(lengths) - half]
        choice["draft_time"] = [0.2 * seconds for seconds in choice["wall_time"]]
    spec = open_log(write_lines(tmp_path / "vispec.jsonl", records))
    plain = open_log(write_lines(tmp_path / "baseline.jsonl", answers(False)))
    (found,) = explain_log(spec, plain, gamma=4)
    whole(found)
    assert found.factors[1].kind == "measured"  # drafting was timed
    assert (
        spec.runs[0].tokens_per_pass
        == open_log(write_lines(tmp_path / "e.jsonl", answers(True))).runs[0].tokens_per_pass
    )
    for record in records:  # MSD keeps a mean a turn
        record["choices"][0]["acceptance_length"] = [2.5, 2.5]
    again = open_log(write_lines(tmp_path / "msd.jsonl", records))
    assert again.runs[0].tokens_per_pass == spec.runs[0].tokens_per_pass


def test_mmspecs_pairs(tmp_path: Path) -> None:
    line: dict = {"naive_time": 3.0, "spec_time": 2.0, "naive_step_count": 100, "spec_iteration_count": 40}
    line |= {"generated_token_count": 100, "average_accept_length": "1.50", "speedup": 1.5}
    path = write_lines(tmp_path / "results.jsonl", [line, {"error": "RuntimeError()"}, line])
    (found,) = explain_log(open_log(path), gamma=10)
    whole(found)
    assert found.measured == pytest.approx(1.5)
    assert found.factors[0].value == pytest.approx(2.5 / 11)


# TPOT in ms and mean acceptance length of EAGLE-3 at K draft tokens, plain 7.07: vllm issue 20780
VLLM_20780 = {2: (4.32, 2.36), 3: (4.09, 2.79), 4: (4.05, 3.08), 5: (4.13, 3.32), 6: (4.20, 3.46), 7: (4.29, 3.54)}


def table(runs: list[dict], **more: object) -> dict:
    return {"source": "issue", "runs": runs} | more


def test_a_table_of_several_draft_lengths_tells_the_draft_cost(tmp_path: Path) -> None:
    rows = [
        {"method": f"K={k}", "gamma": k, "tokens_per_pass": a, "ms_per_token": t} for k, (t, a) in VLLM_20780.items()
    ]
    path = tmp_path / "issue.json"
    path.write_text(json.dumps(table(rows, plain={"ms_per_token": 7.07})))
    found = dict(zip(VLLM_20780, explain_log(open_log(path)), strict=True))
    for waterfall in found.values():
        whole(waterfall)
    assert found[4].measured == pytest.approx(7.07 / 4.05)
    draft = found[4].factors[1]
    assert (draft.name, draft.kind) == ("draft cost", "estimated")
    assert draft.value == pytest.approx(1 / (1 + 4 * 0.1437), rel=1e-3)  # c by a fit through all six
    # what a run says of other lengths, beside what was measured there
    assert found[4].changes["gamma 3"] == pytest.approx(found[3].measured, rel=0.03)
    assert found[3].changes["gamma 5"] == pytest.approx(found[5].measured, rel=0.04)


def test_the_papers_speedup_at_the_same_length(tmp_path: Path) -> None:
    """zju-jiyicheng/SpecVLM issue 5: 1.07x at 3.82 tokens a pass, the paper has 1.50x at 3.83."""
    path = tmp_path / "specvlm.json"
    path.write_text(json.dumps(table([{"method": "SpecVLM", "tokens_per_pass": 3.82, "speedup": 1.07}])))
    (found,) = explain_log(open_log(path), paper=(1.5, 3.83))
    whole(found)
    assert [(f.name, round(f.value, 3)) for f in found.factors] == [("acceptance", 0.997), ("cost of a round", 0.715)]
    command = ["explain", str(path), "--paper", "1.5", "--paper-length", "3.83", "--figure", str(tmp_path / "w.pdf")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "a round costs 3.57 plain steps, in the paper 2.55 [measured]" in done.output
    assert (tmp_path / "w.pdf").read_bytes().startswith(b"%PDF")
    alone = CliRunner().invoke(app, [*command[:4]])
    assert (alone.exit_code, "--paper-length go together" in alone.output) == (2, True)


def run_row(method: str, gamma: int, sample: int, overlap: bool = False) -> TraceRow:
    """An answer of 13 tokens: 100 ms reading, then rounds of 10 ms a step, 2 ms a draft token, 1 ms of the host."""
    events, rounds, now = [Event("target", "prefill", 0.0, 0.1)], [], 0.1
    if overlap:
        events.append(Event("drafter", "prefill", 0.02, 0.06))
    left = 12
    while left:
        if gamma:
            events.append(Event("drafter", "draft", now, now + 0.002 * gamma))
            now += 0.002 * gamma
        length = 0.010 + 0.001 * gamma
        events.append(Event("target", "verify" if gamma else "step", now, now + length))
        now += length + 0.001
        gained = min(left, 3 if gamma else 1)
        rounds.append((gamma, gained - 1, gained))
        left -= gained
    events = sorted(events, key=lambda event: event.start)
    return TraceRow(
        str(sample), "q", [7] * 12 + [2], method=method, tag="measured (sequential)", rounds=rounds, events=events,
        total_seconds=now,
    )  # fmt: skip


def test_a_trace_of_ours_tells_every_factor(tmp_path: Path) -> None:
    rows = [run_row(*method, sample) for sample in range(3) for method in (("plain", 0), ("gamma 4", 4))]
    Trace(rows).save(tmp_path / "trace.parquet")
    log = open_log(tmp_path)
    (found,) = explain_log(log)
    whole(found)
    values = {factor.name: factor.value for factor in found.factors}
    assert list(values) == ["acceptance", "draft cost", "verify cost", "host", "prefill and overhead"]
    step = 0.011  # of plain decoding, the host in it
    drafting, verify, rounds = 0.008 / step, 0.014 / step, 0.023 / step
    assert values["acceptance"] == pytest.approx(3 / 5)
    assert values["draft cost"] == pytest.approx(1 / (1 + drafting))
    assert values["verify cost"] == pytest.approx((1 + drafting) / (verify + drafting))
    assert values["host"] == pytest.approx((verify + drafting) / rounds)
    assert found.measured == pytest.approx((0.1 + 12 * 0.011) / (0.1 + 4 * 0.023))
    assert found.changes["decoding alone"] == pytest.approx(3 / rounds)
    # the change that is nothing: drafting at its own cost gives what was measured
    free = found.changes["drafting free"]
    assert free == pytest.approx((0.1 + 12 * 0.011) / (0.1 + 4 * 0.015))


def test_what_overlaps_counts_once() -> None:
    rows = [run_row("hidden", 4, sample, overlap=True) for sample in range(2)]
    (totals,) = trace_totals(Trace(rows))
    assert totals.step_seconds == pytest.approx(4 * 0.023 / 12)  # the drafter's reading is inside the target's


def test_a_cost_that_contradicts_the_log_is_refused() -> None:
    run, plain = RunTotals(1.0, 0.5, "r", tokens_per_pass=3.0, gamma=4.0), RunTotals(1.0, 1.0, tokens_per_pass=1.0)
    with pytest.raises(ValueError, match=r"run 'r': drafting would cost 4\.00 of the 1\.50 steps"):
        explain(run, plain, draft_cost=1.0)
    with pytest.raises(ValueError, match="seconds: expected a number above 0"):
        RunTotals(1.0, 0.0)
    with pytest.raises(ValueError, match="run 'r': 3 tokens a pass, from 1 draft tokens and the target's own"):
        explain(replace(run, gamma=1.0), plain)


def test_a_line_through_the_rounds_that_one_of_them_contradicts_tells_no_draft_cost() -> None:
    plain = RunTotals(1.0, 1.0, tokens_per_pass=1.0)
    costs = {1.0: 3.0, 2.0: 1.5, 3.0: 5.0}  # the line has c = 1: at gamma 2 more than the whole round
    runs = [RunTotals(1.0, cost / 2, f"{gamma}", tokens_per_pass=2.0, gamma=gamma) for gamma, cost in costs.items()]
    assert fit_draft_cost(runs, plain) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no known log"),
        ("hello", "no known log"),
        ('{"a": 1}', "no known log"),
        ("[1, 2]", "record 0: expected an object"),
        ('{"runs": [{"speedup": 2}]}', "tokens_per_pass: expected a number, found nothing"),
        ('{"runs": [{"speedup": NaN, "tokens_per_pass": 2}]}', "speedup: expected a number, found nan"),
        ('{"plain": {"ms_per_token": 0}, "runs": []}', "run 'plain': seconds: expected a number above 0"),
        ('{"runs": [{"speedup": 0, "tokens_per_pass": 2}]}', "run 'run 0': seconds: expected a number above 0"),
        ('{"choices": []}', "choices: expected a list of records"),
        ('{"choices": [{"new_tokens": [1], "wall_time": []}]}', "wall_time: expected a time for each of 1"),
        ('{"total_output_tokens": "x", "duration": 1}', "total_output_tokens: expected a number, found 'x'"),
        ('{"mtbench": [{"metrics": []}]}', "metrics: expected a list of records"),
        ("INFO Avg generation throughput: 0.0 tokens/s, Running: 0 reqs", "no interval"),
        ("vllm:generation_tokens_total 3", "e2e_request_latency_seconds_count"),
    ],
)
def test_what_is_no_log_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.log"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"x\.log: .*{message}"):
        open_log(path)
