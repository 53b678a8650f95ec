"""Simulated machines for trying and testing: physical models, rooms, and a data set in the layout of 2026."""

from asd_core.data.simulate.presets import MACHINES, SIZES, Machine, Setting, Size
from asd_core.data.simulate.write import render, simulate

__all__ = ["MACHINES", "SIZES", "Machine", "Setting", "Size", "render", "simulate"]
