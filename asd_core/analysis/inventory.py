"""What a data set consists of: clips by machine, split, domain and attribute, and how its two microphones differ."""

from __future__ import annotations

import numpy as np
import pandas as pd

from asd_core.data.manifest import NO_ATTRIBUTE, DataSet, attribute_key, attribute_values, parse_attributes
from asd_core.types import SOURCE, TARGET, TRAIN

STEP_DB = 1.0  # width of a bar of the level histogram
SKEWED = 5.0  # source clips per target clip from which training is called lopsided
FEW = 5  # training clips with which an attribute is hardly learnt
CLEAR = 0.5  # share of a machine's clips that must tell a delay before it is shown


def clip_frame(data: DataSet) -> pd.DataFrame:
    """One row per clip, in order of their ids: clip_id, machine, split, section, domain, attributes (case-folded, as in
    file names), label (0, 1 or <NA>).

    Domain, attributes and label of test clips are their truth, "" and <NA> where the name does not tell.
    """
    truths = [data.truth.get(clip.clip_id) for clip in data.clips]
    known = list(zip(data.clips, truths, strict=True))
    return pd.DataFrame(
        {
            "clip_id": [clip.clip_id for clip in data.clips],
            "machine": [clip.machine for clip in data.clips],
            "split": [clip.split for clip in data.clips],
            "section": [clip.section for clip in data.clips],
            "domain": [truth.domain if truth else clip.domain for clip, truth in known],
            "attributes": [
                attribute_key(truth.attributes if truth else clip.attributes)
                if truth or clip.split == TRAIN
                else ""  # an unlabelled test clip: not known, which is not the same as none
                for clip, truth in known
            ],
            "label": pd.array([truth.label if truth else None for truth in truths], dtype="Int64"),
        }
    )


def balance(clips: pd.DataFrame) -> pd.DataFrame:
    """How evenly each machine's training clips are spread, from the rows of `clip_frame`.

    Columns: machine, source, target (training clips), ratio (source per target; NaN without target clips), attributes
    (number of different ones), rarest, rarest_clips, said (a sentence).
    """
    train = clips[clips["split"] == TRAIN]
    rows = []
    for machine in sorted(clips["machine"].unique()):
        own = train[train["machine"] == machine]
        source, target = (int((own["domain"] == domain).sum()) for domain in (SOURCE, TARGET))
        kinds = own["attributes"].value_counts()
        ratio = source / target if target else np.nan
        row = {"machine": machine, "source": source, "target": target, "ratio": ratio, "attributes": len(kinds)}
        rarest, fewest = (str(kinds.index[-1]), int(kinds.iloc[-1])) if len(kinds) else ("", 0)
        rows.append(row | {"rarest": rarest, "rarest_clips": fewest, "said": _said(source, target, rarest, fewest)})
    columns = ["machine", "source", "target", "ratio", "attributes", "rarest", "rarest_clips", "said"]
    return pd.DataFrame(rows, columns=columns)


def _said(source: int, target: int, rarest: str, fewest: int) -> str:
    if not source + target:
        return "There are no training clips: nothing can be learnt."
    if not target or not source:
        return f"All {source + target} training clips are of the {'source' if source else 'target'} domain."
    many, few = (source, target) if source >= target else (target, source)
    names = ("source", "target") if source >= target else ("target", "source")
    said = f"{source} source and {target} target clips"
    if many >= SKEWED * few:
        said += f": {many / few:.0f} {names[0]} clips for each {names[1]} clip"
    if fewest <= FEW and rarest not in ("", NO_ATTRIBUTE):
        said += f". Rarest attribute: {rarest} with {fewest} clip{'s' * (fewest != 1)}"
    return said + "."


def attribute_keys(clips: pd.DataFrame) -> list[str]:
    """Keys of the attributes of some rows of `clip_frame`, in order of appearance."""
    return list(dict.fromkeys(key for text in clips["attributes"].unique() for key, _ in parse_attributes(text)))


def by_attribute(clips: pd.DataFrame, key: str = "") -> pd.DataFrame:
    """Rows of `clip_frame` by attributes and group, most training clips first: attributes, train_source, train_target,
    test_source, test_target (test clips whose name tells), test_unknown.

    Args:
        key: count the values of this one attribute (of one that comes twice, the first); "": all attributes together
    """
    values = clips["attributes"]
    if key:
        one = {text: attribute_values(parse_attributes(text)).get(key, "") for text in values.unique()}
        values = values.map(one)
    values = values.where(values != "", "not known").replace(NO_ATTRIBUTE, "none")
    known = clips["domain"].where(clips["domain"] != "", "unknown")
    counts = pd.crosstab(values.rename("attributes"), clips["split"] + "_" + known)
    columns = ["train_source", "train_target", "test_source", "test_target", "test_unknown"]
    counts = counts.reindex(columns=columns, fill_value=0).reset_index().rename_axis(columns=None)
    order = (-counts["train_source"] - counts["train_target"]).sort_values(kind="stable").index
    return counts.loc[order].reset_index(drop=True)


def sound_facts(facts: pd.DataFrame) -> pd.DataFrame:
    """Durations, rates and channels of each machine from the clip facts of `doctor`: machine, split, clips, shortest,
    longest, hours, rates (Hz), channels."""
    grouped = facts.groupby(["machine", "split"], sort=True)
    table = grouped["seconds"].agg(clips="size", shortest="min", longest="max", hours="sum")
    table["hours"] /= 3600
    for name, column in (("rates", "rate"), ("channels", "channels")):
        table[name] = grouped[column].agg(lambda values: ", ".join(f"{value:g}" for value in sorted(set(values))))
    return table.reset_index()


def microphones(facts: pd.DataFrame) -> pd.DataFrame:
    """How near and far differ, per machine, medians over its clips of two channels: machine, clips, near, far (dB of
    full scale), difference (dB, near minus far), correlation, lead (ms by which the near one hears first; NaN where
    less than half of the clips tell), telling (share of clips that tell a delay)."""
    both = facts[facts["far"].notna()]
    both = both.assign(difference=both["near"] - both["far"], telling=both["lead"].notna())
    grouped = both.groupby("machine", sort=True)
    table = grouped[["near", "far", "difference", "correlation", "lead"]].median()
    table["telling"] = grouped["telling"].mean()
    table["lead"] = table["lead"].where(table["telling"] >= CLEAR)
    table.insert(0, "clips", grouped.size())
    return table.reset_index()


def levels(facts: pd.DataFrame) -> pd.DataFrame:
    """Histogram of clip levels in bars of `STEP_DB` that both microphones share: microphone ("near", "far"), low, high
    (dB of full scale), count."""
    columns = ["microphone", "low", "high", "count"]
    values = {name: facts[name].dropna().to_numpy() for name in ("near", "far")}
    every = np.concatenate(list(values.values()))
    if not len(every):
        return pd.DataFrame(columns=columns)
    edges = np.arange(np.floor(every.min()), np.floor(every.max()) + 2 * STEP_DB, STEP_DB)
    parts = [
        pd.DataFrame({"microphone": name, "low": edges[:-1], "high": edges[1:], "count": np.histogram(own, edges)[0]})
        for name, own in values.items()
        if len(own)
    ]
    return pd.concat(parts, ignore_index=True)[columns]
