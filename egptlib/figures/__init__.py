"""Figures, as pure functions from data to a matplotlib figure, and the explorers around them; none is shown here."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
