"""The document on a run: every number comes from `api` and `analysis`, in percent where the pages say percent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import yaml

from asd_core import analysis, api
from asd_core.analysis.runs import made_of, tuned_on
from asd_core.artifacts import Run, Workspace, how_again
from asd_core.files import read_json
from asd_core.metrics import TRIPLE, TRIPLE_RESTRICTED
from asd_core.report import charts
from asd_core.report.document import (
    Block,
    Chart,
    ClipCard,
    Code,
    Document,
    Facts,
    Heading,
    Picture,
    Section,
    Table,
    Text,
)
from asd_core.types import AsdError, Progress, no_progress

CLIPS = 10  # of each list
SETS = {"official": "official", "domain_restricted": "domain-restricted"}
KINDS = {"Worst false alarms": "normal clips that were flagged", "Missed anomalies": "anomalies that were not flagged"}
NONE = "–"


def build(
    workspace: Workspace, run: Run, against: Run | None = None, clips: int = CLIPS, progress: Progress = no_progress
) -> Document:
    """The report of a finished run, and of what tells it from another one on the same recordings.

    Args:
        clips: how many clips each list shows at most

    Raises:
        AsdError: the two runs were not made on the same recordings, or these carry no labels to compare by.
    """
    record = run.record
    progress(0.0, "reading the run")
    table = api.clip_table(workspace, run)
    sections = [Section("Summary", tuple(_summary(workspace, run)))]
    if run.metrics:
        sections.append(Section("Results by machine", tuple(_results(run))))
    if against is not None:
        progress(0.05, "comparing")
        sections.append(Section(f"Against {_called(against)}", tuple(_comparison(run, against))))
    progress(0.15, "drawing")
    sections.append(Section("Scores", tuple(_scores(run, table))))
    sections.append(Section("At the threshold", tuple(_threshold(run))))
    sections += _clip_sections(workspace, run, _lists(table, clips), progress)
    sections += [
        Section("Configuration", (Code("As resolved and stored with the run", _yaml(record.get("config"))),)),
        Section("Provenance", tuple(_provenance(workspace, run, against))),
    ]
    progress(0.9, "writing")
    data = record["data"]
    title = str(record.get("title", record["system"]))
    return Document(
        title if against is None else f"{title} against {against.record.get('title', against.record['system'])}",
        f"{data['name']}, profile {record['profile']}, seed {record['seed']}",
        str(data["kind"]),
        time.time(),
        tuple(sections),
    )


def _called(run: Run) -> str:
    record = run.record
    return f"{record['system']}, {record['profile']}, seed {record['seed']}"


def _summary(workspace: Workspace, run: Run) -> Iterator[Block]:
    record, metrics = run.record, run.metrics
    data = record["data"]
    if data["kind"] == "simulated":
        yield Text(
            "The recordings are simulated: invented machines, for trying things out. The figures say nothing of real "
            "machines and cannot be set beside published ones.",
            "warning",
        )
    row = _row_of(workspace, run)
    facts = [("System", f"{record.get('title', record['system'])} ({record['system']})")]
    if idea := (record.get("config") or {}).get("idea"):
        facts.append(("Idea", str(idea)))
    facts += [
        ("Data", f"{data['name']} ({data['kind']})"),
        ("Profile", str(record["profile"])),
        ("Seed", str(record["seed"])),
    ]
    facts.append(("Machines", ", ".join(record["machines"])))
    if metrics:
        official, restricted = metrics["official"], metrics["domain_restricted"]
        facts.append(("Ω (official score)", _with_half(official["omega"], official["interval"]) + " %"))
        facts.append(
            ("Domain-restricted", _with_half(restricted["hmean"], restricted["interval"]) + " %, another metric set")
        )
        if row.get("seeds", 1) > 1:
            facts.append(
                (
                    "Ω over seeds",
                    f"{_percent(row['omega_mean'])} ± {_percent(row['omega_std'])} % ({row['seeds']} seeds, mean ± standard deviation)",
                )
            )
        if _has(row.get("omega_lomo")):
            facts.append(
                ("Ω, each machine left out", f"{_percent(row['omega_lomo'])} %: weights tuned on the other machines")
            )
    if _has(row.get("published")):
        told = f"{_percent(row['published'])} % ({SETS[row['metric_set']]} metric set), DCASE 2026 development data"
        facts.append(("Published", told + ("" if _has(row.get("difference")) else "; not comparable with this run")))
    yield Facts(tuple(facts))
    if not metrics:
        yield Text("The test clips carry no labels, so there are no figures of merit. Scores and clips follow.", "note")
    elif why := metrics["official"]["why"]:
        yield Text(f"Not everything is defined. {why}.", "note")
    if metrics and metrics["official"]["interval"]:
        yield Text(
            f"Intervals are 95 % bootstrap intervals over {metrics['bootstrap']:,} resamples of the test clips; ± is half "
            "their width. They say nothing of what another seed would change.",
            "note",
        )
    if record.get("transductive"):
        yield Text(
            "Transductive: what is said of a clip depends on the other test clips. Not for a running machine.",
            "warning",
        )
    if told := tuned_on(record):
        yield Text(told, "warning")
    for sentence in dict.fromkeys(record.get("notices", [])):
        if sentence != told:
            yield Text(str(sentence), "note")


def _row_of(workspace: Workspace, run: Run) -> dict[str, Any]:
    """The row of the leaderboard that counts this run; made of the runs that differ from it in their seed alone."""
    alike = [one for one in api.runs(workspace) if made_of(one) == made_of(run)]
    board = analysis.leaderboard(alike or [run], analysis.published())
    return {str(name): value for name, value in board.iloc[0].to_dict().items()}


def _results(run: Run) -> Iterator[Block]:
    """The tables as the technical reports print them: machines, then both means."""
    matrix = analysis.machine_matrix(run)
    metrics = run.metrics or {}
    for key, total, names, mean in (
        ("official", "omega", TRIPLE, "hmean"),
        ("domain_restricted", "hmean", TRIPLE_RESTRICTED, "hmean_restricted"),
    ):
        rows = [
            (
                name,
                *(_percent(row[one]) for one in names),
                _percent(row[mean]),
                _half(row[f"{mean}_low"], row[f"{mean}_high"]),
            )
            for name, row in zip(_names(matrix), matrix.to_dict(orient="records"), strict=True)
        ]
        # the reports' tables close with both means; the arithmetic one is no figure of the challenge
        arithmetic = [matrix[one].astype(float).mean(skipna=False) for one in (*names, mean)]
        rows.append(("Arithmetic mean", *map(_percent, arithmetic), NONE))
        overall = metrics[key]
        harmonic = [100 * overall[one] if overall[one] is not None else None for one in (*TRIPLE, total)]
        half = _half(*(100 * end for end in overall["interval"])) if overall["interval"] else NONE
        rows.append(("Harmonic mean", *map(_percent, harmonic), half))
        official = key == "official"
        yield Table(
            "Official metric set, percent" if official else "Domain-restricted metric set, percent",
            ("Machine", "AUC source", "AUC target", "pAUC", "h-mean", "±"),
            tuple(rows),
            means=2,
            note=(
                "AUCs set the normals of one domain against all anomalies; pAUC is up to a false-alarm rate of 0.1. The "
                "h-mean of all values is Ω, the official score. ± belongs to the h-mean."
                if official
                else "AUCs stay inside each domain, as some reports print them. It is another metric set: its figures "
                "must not be compared with those above."
            ),
        )
    if without := sorted(set(run.record["machines"]) - set(matrix["machine"])):
        yield Text(f"Without labels, so without figures: {', '.join(without)}.", "note")
    for name, why in zip(_names(matrix), matrix["why"], strict=True):
        if why:
            yield Text(f"{name}: {why}.", "note")


def _comparison(run: Run, against: Run) -> Iterator[Block]:
    found = analysis.compare_runs([run], [against])
    for sentence in found["said"]:
        yield Text(sentence)
    for notice in dict.fromkeys(against.record.get("notices", [])):
        if not any(notice in sentence for sentence in found["said"]):
            yield Text(f"{against.record['system']}: {notice}", "note")
    if against.record.get("transductive"):
        yield Text(
            f"{against.record['system']} is transductive: its verdicts depend on the other test clips.", "warning"
        )
    names = [found["systems"][side]["system"] for side in ("a", "b")]
    if names[0] == names[1]:
        names = ["this run", "other"]
    rows = [
        (f"{machine}{_section(section, sections)}", *_difference(entry["hmean"], "p_holm"))
        for machine, sections in found["machines"].items()
        for section, entry in sections.items()
    ]
    rows.append(("Ω", *_difference(found["official"], "p")))
    rows.append(("Domain-restricted", *_difference(found["domain_restricted"], "p")))
    yield Table(
        "Harmonic means of both systems on the same clips, percent",
        ("Machine", *names, "Difference", "95 % interval", "p"),
        tuple(rows),
        means=2,
        note=f"Paired bootstrap over {found['clips']:,} labelled clips: the same clips are drawn for both. An interval "
        "without 0 means more than chance in the choice of clips. p of a machine is corrected (Holm) for asking it of "
        "every machine; the last row is another metric set.",
    )


def _difference(found: Mapping[str, Any], p: str) -> tuple[str, ...]:
    percent = [None if found[side] is None else 100 * found[side] for side in ("a", "b")]
    interval = NONE
    if found["interval"]:
        interval = " to ".join(_signed(100 * end) for end in found["interval"])
    chance = found[p]
    told = NONE if chance is None else "< 0.001" if chance < 0.001 else f"{chance:.3f}"
    difference = NONE if found["difference"] is None else _signed(100 * found["difference"])
    return (*map(_percent, percent), difference, interval, told)


def _scores(run: Run, table: pd.DataFrame) -> Iterator[Block]:
    known = (run.metrics or {"machines": {}})["machines"]
    groups = sorted(table.groupby(["machine", "section"]), key=lambda group: (group[0][0] not in known, group[0]))
    for (machine, section), own in groups:
        sections = table.loc[table["machine"] == machine, "section"].unique()
        name = f"{machine}{_section(str(section), sections)}"
        threshold = float(own["threshold"].iloc[0])
        curves = api.roc_curves(own)
        figures = known.get(machine, {}).get(section, {})
        captions = {one: _caption(one, figures) for one in curves}
        figure = charts.scores_and_roc(api.histogram(own), threshold, curves, captions)
        yield Heading(name)
        shown = "with their ROC curves" if curves else "without labels"
        flagged = int((own["decision"] == 1).sum())
        alt = f"Histogram of {len(own)} scores of {name} {shown}; {flagged} lie above the threshold {threshold:.4g}"
        yield Chart(figure, alt)


def _caption(curve: str, figures: Mapping[str, Any]) -> str:
    """A ROC curve with the official figure that belongs to it."""
    name, short = ("pauc", "pAUC") if curve == "all" else (f"auc_{curve}", "AUC")
    value = figures.get(name)
    return curve if value is None else f"{curve}, {short} {100 * value:.2f}"


def _threshold(run: Run) -> Iterator[Block]:
    if run.record.get("transductive"):
        yield Text(
            "Thresholds follow the test clips (transductive), so training clips tell no false-alarm rate.", "note"
        )
    else:
        alarms = analysis.false_alarms(run)
        rows = []
        for (machine, section), own in alarms.groupby(["machine", "section"], sort=True):
            of = {row["domain"]: row for row in own.to_dict(orient="records")}
            rates = [
                f"{100 * of[domain]['rate']:.1f} ({of[domain]['alarms']} of {of[domain]['clips']})"
                if domain in of
                else NONE
                for domain in ("all", "source", "target")
            ]
            name = f"{machine}{_section(section, alarms.loc[alarms['machine'] == machine, 'section'].unique())}"
            rows.append((name, f"{of['all']['threshold']:.4f}", *rates))
        yield Table(
            "False alarms on normal training clips, percent",
            ("Machine", "Threshold", "All", "Source", "Target"),
            tuple(rows),
            note="Held out: each training clip is scored without itself. The threshold is learnt from these clips, so "
            "their rate is near the one it aims at; the test clips below were not seen.",
        )
    if metrics := run.metrics:
        names = [f"{figure}_{domain}" for domain in ("source", "target") for figure in ("precision", "recall", "f1")]
        rows = [
            (
                f"{machine}{_section(section, sections)}",
                *(_percent(None if entry[name] is None else 100 * entry[name]) for name in names),
            )
            for machine, sections in metrics["machines"].items()
            for section, entry in sections.items()
        ]
        parts = ("precision", "recall", "F1")
        columns = tuple(f"{domain} {part}" for domain in ("Source", "Target") for part in parts)
        yield Table("Verdicts on the labelled test clips, percent", ("Machine", *columns), tuple(rows))


def _lists(table: pd.DataFrame, clips: int) -> list[tuple[str, str, pd.DataFrame]]:
    """(title, what it lists, clips) of each list of clips."""
    known = table[table["label"].notna()]
    found = []
    for preset, about in KINDS.items() if len(known) else ():
        chosen = _dealt(api.select_clips(known, preset), clips)
        every = int((known["outcome"] == ("FP" if preset == "Worst false alarms" else "FN")).sum())
        found.append((preset, f"{len(chosen)} of {every} {about}. {_order(known)}", chosen))
    unknown = table[table["label"].isna()]
    if len(unknown):
        chosen = _dealt(api.select_clips(unknown, "Highest scores"), clips)
        about = f"{len(chosen)} of {len(unknown)} clips without labels. {_order(unknown)}"
        found.append(("Highest scores without labels" if len(known) else "Highest scores", about, chosen))
    return found


def _clip_sections(
    workspace: Workspace, run: Run, lists: Sequence[tuple[str, str, pd.DataFrame]], progress: Progress
) -> Iterator[Section]:
    total, done = sum(len(chosen) for _, _, chosen in lists), 0
    for title, about, chosen in lists:
        cards: list[Block] = []
        problems: dict[str, None] = {}
        for clip in chosen.to_dict(orient="records"):
            progress(0.2 + 0.7 * done / total, f"spectrograms of {clip['clip_id']}")
            cards.append(_card(workspace, run, {str(name): value for name, value in clip.items()}, problems))
            done += 1
        yield Section(title, (Text(about, "note"), *(Text(one, "note") for one in problems), *cards))


def _order(clips: pd.DataFrame) -> str:
    if clips["machine"].nunique() == 1:
        return "The worst first."
    return "Scores of different machines have different scales, so every machine in turn gives its worst."


def _dealt(clips: pd.DataFrame, count: int) -> pd.DataFrame:
    """The first `count` clips when machines give one in turn; then machine by machine, in the order of `clips`."""
    turn = clips.groupby("machine").cumcount()
    chosen = clips.assign(turn=turn).sort_values(["turn", "machine"], kind="stable").head(count)
    return chosen.sort_values(["machine", "turn"], kind="stable").drop(columns="turn")


def _card(workspace: Workspace, run: Run, clip: Mapping[str, Any], problems: dict[str, None]) -> ClipCard:
    """`problems` takes up what cannot be told and why, so that it is said once and not of every clip."""
    known = pd.notna(clip["label"])
    facts = [str(clip["machine"])]
    if known:
        facts += ["anomaly" if clip["label"] else "normal", str(clip["domain"])]
        if clip["attributes"] not in ("", "noAttribute"):
            facts.append(str(clip["attributes"]))
    flagged = "flagged" if clip["decision"] == 1 else "not flagged"
    score = f"Score {clip['score']:.4f}, threshold {clip['threshold']:.4f}: {flagged}."
    if not run.record.get("transductive") and pd.notna(clip["percentile"]):
        score += f" {clip['percentile']:.0f} % of the normal training clips score at most this."
    lines = [" · ".join(facts), score]
    for tell, lacking in ((_place, "Where it sounds unusual"), (_nearest, "The nearest normal clip")):
        try:
            lines.append(tell(workspace, run, str(clip["clip_id"])))
        except AsdError as error:
            problems.setdefault(f"{lacking} is not told: {error}")
    pictures: tuple[Picture, ...] = ()
    try:
        pictures = tuple(_pictures(workspace, run.record["data"]["name"], clip))
    except (AsdError, OSError) as error:
        lines.append(f"No picture. {error}")
    return ClipCard(str(clip["clip_id"]), tuple(filter(None, lines)), pictures)


def _nearest(workspace: Workspace, run: Run, clip_id: str) -> str:
    """The training clip most like this one, as the run's first embedding has it.

    Raises:
        AsdError: the run keeps no embedding, or its files are gone.
    """
    found = api.neighbours(workspace, run, clip_id, 1)
    if found.empty:
        return "There is no training clip to compare with."
    first = found.iloc[0]
    facts = ", ".join(word for word in (first["domain"], first["attributes"]) if word not in ("", "noAttribute"))
    return f"Nearest normal training clip: {first['clip_id']} ({facts}; {first['metric']} {first['distance']:.4g})."


def _place(workspace: Workspace, run: Run, clip_id: str) -> str:
    """Where in the clip the highest local score lies, of the first branch that has it; "" where none has."""
    for branch in api.explanation(workspace, run, clip_id).branches:
        for place in branch.places[:1]:
            if place.start > 0 or place.stop is not None:
                until = "the end" if place.stop is None else f"{place.stop:.2f} s"
                band = f"{place.low:,.0f} to {place.high:,.0f} Hz"
                return f"Least normal from {place.start:.2f} s to {until}, {band} (branch {branch.name})."
    return ""


def _pictures(workspace: Workspace, data: str, clip: Mapping[str, Any]) -> Iterator[Picture]:
    """Spectrograms of the channels that the file has, on the loudness scale of its machine."""
    clip_id = str(clip["clip_id"])
    facts = api.clip_facts(workspace, data, clip_id)
    low, high = api.loudness_scale(workspace, data, str(clip["machine"]))
    for channel in list(api.CHANNELS)[: facts.channels]:
        image = charts.spectrogram_image(api.spectrogram(workspace, data, clip_id, channel), low, high)
        alt = f"Spectrogram of {clip_id}, {channel} microphone, {facts.seconds:.1f} s, 0 to 8 kHz on a mel axis"
        yield Picture(
            f"{channel.capitalize()}, {facts.seconds:.1f} s, {low:.0f} to {high:.0f} dB".replace("-", "−"), image, alt
        )


def _provenance(workspace: Workspace, run: Run, against: Run | None) -> Iterator[Block]:
    for which, one in (("", run), ("Compared with: ", against)):
        if one is None:
            continue
        record, meta = one.record, read_json(one.folder / "meta.json")
        if against is not None:
            yield Heading(f"{which}{record['run_id']}")
        yield Facts(
            (
                ("Run", str(record["run_id"])),
                ("Made", f"{moment(record['created'])}, in {record.get('seconds', 0):.0f} s"),
                ("Seed", str(record["seed"])),
                (
                    "Data fingerprint",
                    f"{record['data'].get('fingerprint', NONE)} ({record['data']['name']}, {record['data']['kind']})",
                ),
                (
                    "Code",
                    f"ASD Studio {meta.get('asd_studio', NONE)}, commit {meta.get('git') or record.get('git') or 'unknown'}",
                ),
                (
                    "Packages",
                    ", ".join(f"{name} {version}" for name, version in sorted(meta.get("packages", {}).items())),
                ),
                ("Made again by", _again(workspace, one)),
            )
        )


def _again(workspace: Workspace, run: Run) -> str:
    known = api.data_sets(workspace).get(run.record["data"]["name"])
    return how_again(run, known.argument if known else "")


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _yaml(config: Any) -> str:
    return yaml.safe_dump(config or {}, sort_keys=False, allow_unicode=True, width=100).rstrip()


def _names(matrix: pd.DataFrame) -> list[str]:
    return [
        f"{row.machine}{_section(row.section, matrix.loc[matrix['machine'] == row.machine, 'section'])}"
        for row in matrix.itertuples()
    ]


def _section(section: Any, sections: Iterable[Any] | Sequence[Any]) -> str:
    """What is added to a machine's name where it has several sections."""
    return f" {section}" if len(list(sections)) > 1 else ""


def _has(value: Any) -> bool:
    return value is not None and value == value


def _percent(value: Any) -> str:
    return f"{value:.2f}" if _has(value) else NONE


def _half(low: Any, high: Any) -> str:
    return f"{(high - low) / 2:.2f}" if _has(low) and _has(high) else NONE


def _with_half(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return NONE
    return f"{100 * value:.2f}" + (f" ± {50 * (interval[1] - interval[0]):.2f}" if interval else "")


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")
