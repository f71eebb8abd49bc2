"""egptlib: cross-modal speculative decoding between an event-camera drafter and a video target."""

__version__ = "0.1.0"
