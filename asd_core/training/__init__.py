"""Training: one loop, and the objectives it can pursue."""

from asd_core.registry import Registry
from asd_core.training.objective import Objective

OBJECTIVES: Registry[Objective] = Registry("objective", "asd_core.training", Objective)
