"""The whole pipeline at its real shapes on devices that are not there."""

from egptlib.rehearsal._device import Audience, Pretended, pretended_devices

__all__ = ["Audience", "Pretended", "pretended_devices"]
