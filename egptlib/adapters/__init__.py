"""From the drafter's hidden states to the target's: adapters by level, their training, and what they are worth."""

import lazy_loader

from egptlib.adapters import _block, _levels, _served  # noqa: F401 (they register their levels)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
