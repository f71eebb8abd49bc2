"""Result files and logs of others and of the earlier experiments: opened, judged, and what they say of a speedup."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
