"""The earlier writer's `.pt` chunks into the new format: resumably, and every sum compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from egptlib.hidden_states._reader import HiddenStates
from egptlib.hidden_states._sample import HiddenSample
from egptlib.hidden_states._writer import HiddenStateWriter


def convert(
    old: str | os.PathLike[str], new: str | os.PathLike[str], dtype: str = "bfloat16", chunk_size: int = 1000
) -> str:
    """Write the samples of the folder `old` to the folder `new`, or go on where that was stopped.

    Afterwards every converted sample is read back and the sums of its states are compared with those of the old ones in
    the new dtype. The old folder is only read; at most one of its chunks is mapped at a time.

    Returns:
        A line that says what was done.

    Raises:
        ValueError: `new` holds something else, or a sample did not arrive whole (it is named).
    """
    source = HiddenStates.open(old)
    config = {"converted_from": str(Path(old).resolve()), **source.config}
    start = 0
    with HiddenStateWriter(new, config | {"dtype": dtype}, chunk_size, dtype) as writer:
        start = len(writer)
        with tqdm(total=len(source), initial=start, desc="convert", unit="sample", leave=False) as bar:
            for number, sample in _samples(source, start):
                metadata = sample.metadata
                if (metadata["scene"], metadata["question"]) in writer:  # the earlier writer did not look
                    metadata = metadata | {"scene": f"{metadata['scene']}#{number}"}
                writer.add(sample.drafter_hidden, sample.target_hidden, metadata=metadata)
                bar.update()
    target = HiddenStates.open(new)
    if len(target) != len(source):
        raise ValueError(f"{new}: {len(target)} samples, {old} has {len(source)}; remove it and convert again")
    with tqdm(total=len(source), desc="compare", unit="sample", leave=False) as bar:
        for (number, there), (_, here) in zip(_samples(source, 0), _samples(target, 0)):
            for name in ("drafter_hidden", "target_hidden"):
                expected, found = getattr(there, name).to(getattr(here, name).dtype), getattr(here, name)
                if expected.shape != found.shape or expected.double().sum() != found.double().sum():
                    raise ValueError(f"{new}: sample {number}: {name} is not that of {old}")
            bar.update()
    size = sum(path.stat().st_size for path in (Path(new) / "chunks").iterdir())
    return (
        f"converted {len(source) - start} samples, {start} were there already; {size / 1e9:.2f} GB, sums right -> {new}"
    )


def _samples(hs: HiddenStates, start: int) -> Iterator[tuple[int, HiddenSample]]:
    number = start
    for batch in hs[start:].stream(64):
        for sample in batch:
            yield number, sample
            number += 1
