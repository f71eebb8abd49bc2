"""egptlib: cross-modal speculative decoding between an event-camera drafter and a video target.

The names that most work begins with; each is imported from its room on first use, so that `import egptlib` is quick.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
