"""What the makers say of some cards, and the least time that a stage takes on one."""

from __future__ import annotations

from dataclasses import dataclass

from egptlib.rehearsal._counting import Count

LAUNCH = 2e-6
"""Seconds that the host needs at least to launch a kernel, one after the other; 4 to 6 are reported for one launch."""
_HOPPER = {"float32": 494.7e12, "bfloat16": 989.4e12, "float16": 989.4e12, "int8": 1978.9e12}
_RATES = "NVIDIA {} datasheet (SXM), without sparsity; compared with https://glennklockwood.com/garden/processors/h100"
_A100 = {"float32": 156e12, "bfloat16": 312e12, "float16": 312e12, "int8": 624e12}


@dataclass(frozen=True)
class Card:
    """A graphics card.

    Attributes:
        memory: bytes that programs can have at most; CUDA's own context takes some hundred MB of them.
        bandwidth: bytes a second between memory and chip.
        cache: bytes of its last-level cache: so many a stage may find there already.
        rates: dtype -> operations a second of dense matrix products at the boost clock, in the fastest way there is
            (float32 as TF32, float16 with 16-bit sums where the card has that).
        source: of the numbers: the maker's document, and pages that repeat it and were compared.
    """

    name: str
    memory: float
    bandwidth: float
    cache: float
    rates: dict[str, float]
    source: str

    def bound(self, count: Count) -> float:
        """Seconds that no implementation of the stage can do without [estimated bound].

        Whichever takes longer, the arithmetic at the peak rate or moving weights and caches at the full bandwidth.
        """
        compute = sum(flops / self.rates.get(dtype, self.rates["float32"]) for dtype, flops in count.flops.items())
        return max(compute, (count.moved - self.cache) / self.bandwidth)


CARDS = {
    card.name: card
    for card in (
        Card(
            "RTX 4090", 23.49 * 2**30, 1008e9, 72 * 2**20,
            {"float32": 82.6e12, "bfloat16": 165.2e12, "float16": 330.3e12, "int8": 660.6e12},
            "NVIDIA Ada GPU architecture whitepaper 2.01, appendix A; memory as its out-of-memory messages give it",
        ),
        Card("A100 40GB", 40e9, 1555e9, 40 * 2**20, _A100, "NVIDIA A100 datasheet and Ampere whitepaper (SXM4)"),
        Card("A100 80GB", 80e9, 2039e9, 40 * 2**20, _A100, "NVIDIA A100 datasheet and Ampere whitepaper (SXM4)"),
        Card(
            "H100", 80e9, 3.35e12, 50 * 2**20, _HOPPER,
            _RATES.format("H100") + " and https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html",
        ),
        Card(
            "H200", 141e9, 4.8e12, 50 * 2**20, _HOPPER,
            _RATES.format("H200") + " and, its memory, https://www.aiminingco.com/gpu/h200/specs",
        ),
    )
}  # fmt: skip
