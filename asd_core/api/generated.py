"""Generated clips: what would be made."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from asd_core import config
from asd_core.data.manifest import DataSet
from asd_core.synthesis.conditions import find_targets
from asd_core.types import TRAIN


def generation_targets(
    data: DataSet, generator: config.Generator, machines: Sequence[str] | None = None
) -> pd.DataFrame:
    """Under-represented conditions: condition, recorded (clips there are), wanted (clips to generate), why.

    Raises:
        AsdError: an unknown machine, or the generator's own numbers name what no clip has.
    """
    clips = [clip for machine in machines or data.machines for clip in data.of(machine, TRAIN)]
    rows = [
        {"condition": one.condition.text, "recorded": one.recorded, "wanted": one.wanted, "why": one.why}
        for one in find_targets(clips, generator.targets)
    ]
    return pd.DataFrame(rows, columns=["condition", "recorded", "wanted", "why"])
