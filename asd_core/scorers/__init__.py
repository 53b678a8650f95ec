"""Scorers: how far a clip's embedding lies from the normal ones."""

from asd_core.registry import Registry
from asd_core.scorers.base import Scorer

SCORERS: Registry[Scorer] = Registry("scorer", "asd_core.scorers", Scorer)
