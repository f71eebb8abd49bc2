"""The written part: bibliography, reading notes, roadmap. What can be checked is checked; the index is generated."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
