"""What decoding gives and costs: methods against the clock, costs of a step, agreement, what lossy rules change."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
