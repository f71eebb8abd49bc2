"""What runs left behind, one row an answer: traces (parquet), and the costs fitted to them. Imports only metrics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
