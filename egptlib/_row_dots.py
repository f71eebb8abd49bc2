"""Dot products of bfloat16 rows, in one pass over them and without a float32 copy."""

import numba
import numpy as np


# Sums may be taken in any order, so that they use the processor's wide registers; NaN and infinity are kept.
@numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz"})
def row_dots(drafter, target, dots):  # type: ignore[no-untyped-def]
    """Write d.t, d.d and t.t of each row, summed in float32.

    Args:
        drafter: uint16 [row, hidden], the bits of bfloat16 numbers.
        target: the same.
        dots: float32 [row, 3], written to.
    """
    for row in range(drafter.shape[0]):
        both = drafter_square = target_square = np.float32(0)
        for i in range(drafter.shape[1]):
            # A bfloat16 is the upper half of a float32.
            d = np.uint32(np.uint32(drafter[row, i]) << np.uint32(16)).view(np.float32)
            t = np.uint32(np.uint32(target[row, i]) << np.uint32(16)).view(np.float32)
            both += d * t
            drafter_square += d * d
            target_square += t * t
        dots[row, 0] = both
        dots[row, 1] = drafter_square
        dots[row, 2] = target_square
