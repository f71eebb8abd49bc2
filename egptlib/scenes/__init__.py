"""Paired scenes: event streams, their pictures, video frames, questions; and the folders they come from.

The names of the stub beside this file; each is imported on first use, so that `import egptlib.scenes` stays cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
