"""What is accepted, and how much of it: pure functions on tensors. This room imports no other."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
