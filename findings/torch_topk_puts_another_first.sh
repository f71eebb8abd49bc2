#!/usr/bin/env bash
# Expected: the first of logits.topk(k) is logits.argmax(), whatever k is.
# Happens: of equal values torch 2.13.0 (CPU) gives by argmax the first, by topk one that depends on k and on the length of the
#   row: topk(1) and topk(10) of the same row begin with different tokens. Bfloat16 has steps of an eighth from 16 on, so
#   that the two best of 32,000 logits are often equal.
# Meets it: who drafts a tree by topk and verifies by argmax (EAGLE's way), or takes the first of a top-5 list for the greedy
#   choice: a model that drafts for itself refuses its own drafts at ties, and trees and chains differ for no reason of theirs.
# Do: order equal values by their token, or put argmax first; float32 states give float32 logits, with hardly a tie.
set -euo pipefail
d=$(mktemp -d); trap 'rm -rf "$d"' EXIT
python3 -m venv "$d/v"
"$d/v/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$d/v/bin/python" - <<'P'
import torch

print("torch", torch.__version__)
row = torch.zeros(32_000, dtype=torch.bfloat16)
row[[5, 100, 31_999]] = 20.0
print("three equal: argmax", int(row.argmax()), *(f"| topk({k}) {row.topk(k).indices.tolist()}" for k in (1, 2, 3)))
torch.manual_seed(0)
rows = (16 + torch.randn(500, 32_000)).bfloat16()
best, argmax = rows.topk(2).values, rows.argmax(dim=-1)
tied = best[:, 0] == best[:, 1]
first = {k: (rows.topk(k).indices[:, 0] != argmax).sum().item() for k in (1, 2, 4, 10)}
print(f"of 500 rows of 32,000 in bfloat16 {int(tied.sum())} have equal best; topk's first is not argmax, by k:", first)
assert row.argmax() == 5 and row.topk(1).indices.tolist() == [5] and row.topk(3).indices.tolist()[0] != 5
assert first[1] == 0 and min(first[2], first[4], first[10]) > 0 and (tied | (first[1] == 0)).all()
short = torch.zeros(40, dtype=torch.bfloat16)
short[[5, 30]] = 20.0
print("a row of 40: argmax", int(short.argmax()), "| topk(1)", short.topk(1).indices.tolist())
P
echo "as described"
