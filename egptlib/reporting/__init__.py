"""Run folders, figures, notebooks through papermill, and reports that open offline.

The names of the stub beside this file; each is imported on first use, so that `import egptlib.reporting` stays cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
