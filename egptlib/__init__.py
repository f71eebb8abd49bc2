"""egptlib: cross-modal speculative decoding between an event-camera drafter and a video target.

The names that most work begins with; each is imported from its room on first use, so that `import egptlib` is quick.
"""

import os

import lazy_loader

# OpenMP's threads spin for a moment only while they wait for one another, then sleep; torch reads this when it is first
# imported. With all cores taken by others, its own 300,000 turns burn ten times the CPU seconds and take longer, too;
# 5,000 twice as many at most. 1,000 end before a small model's next operation begins: two threads then gain nothing.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
