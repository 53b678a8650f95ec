"""What the tables have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd


def percent_of(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def table_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a table in which a missing number is None rather than NaN."""
    table = pd.DataFrame(rows)
    gaps = [name for name in table if table[name].isna().any()]
    return table.assign(**{name: table[name].astype(object).where(table[name].notna(), None) for name in gaps})
