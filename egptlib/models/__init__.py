"""The two models: EventGPT (drafter, reads events) and Video-LLaVA (target, reads video), and what they need.

The names of the stub beside this file; each is imported on first use, so that `import egptlib.models` stays cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
