"""Learning rates as a function of the step alone, so that a resumed training needs to remember nothing of them."""

from __future__ import annotations

import math

from asd_core.config import Cosine, StepDecay, Train


def rate(options: Train, base: float, step: int, per_epoch: int, steps: int) -> float:
    """Learning rate of a step (counted from 0) for parameters whose full rate is `base`.

    Linear from 0 over the warm-up; then the schedule, which begins where the warm-up ends. `per_epoch` are the
    steps of an epoch, `steps` those of the whole training.
    """
    warmup = options.warmup_steps or round((options.warmup_epochs or 0) * per_epoch)
    if step < warmup:
        return base * step / warmup
    done, total = step - warmup, steps - warmup
    match options.schedule:
        case StepDecay(epochs=epochs, factor=factor):
            return base * factor ** (done // (epochs * per_epoch))
        case Cosine(lowest=lowest):
            lowest = min(lowest, base)  # a deep layer's rate may lie below it from the start
            return lowest + (base - lowest) * (1 + math.cos(math.pi * done / total)) / 2
    return base
