"""The tiny models of the decoding tests."""

from tests.decoding.conftest import drafter as drafter
from tests.decoding.conftest import target as target
