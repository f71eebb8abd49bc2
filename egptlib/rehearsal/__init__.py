"""The whole pipeline at its real shapes, without weights and without the devices: what it asks for, what is refused."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
