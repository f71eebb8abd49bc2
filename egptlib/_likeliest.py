"""The likeliest tokens, with one answer where several are equally likely."""

import torch
from torch import Tensor


def likeliest(values: Tensor, count: int) -> Tensor:
    """Ids [..., count] of the largest of `values` [..., V], largest first; of equals the earlier, as `argmax` has it.

    `topk` gives equals in no order, and leaves `argmax` out where more than `count` are equal.
    """
    ids = values.topk(count, dim=-1).indices.sort(dim=-1).values
    ids = ids.gather(-1, values.gather(-1, ids).argsort(dim=-1, descending=True, stable=True))
    first = values.argmax(dim=-1, keepdim=True)
    return torch.where(ids[..., :1] == first, ids, torch.cat([first, ids[..., :-1]], dim=-1))
