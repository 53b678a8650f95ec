"""Fusion: several streams of scores become one."""

from asd_core.fusion.base import Fusion
from asd_core.registry import Registry

FUSIONS: Registry[Fusion] = Registry("fusion", "asd_core.fusion", Fusion)
