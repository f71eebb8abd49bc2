"""Paired hidden states on disk: written durably, resumed, read lazily; and the extraction that makes them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
