"""Figures from tables. Domains have a colour, labels have a style, so that no meaning hangs on colour alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

DOMAIN_COLOURS = {"source": "#0072B2", "target": "#E69F00", "all": "#7A8794", "": "#0072B2"}
THRESHOLD = "#D64545"
WHAT_IF = "#A05BB5"
MARGINS = {"l": 10, "r": 10, "t": 30, "b": 10}
BELOW = {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0}
CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}
BRUSH = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "autoScale2d"]}


def score_histograms(
    counts: pd.DataFrame, threshold: float, what_if: float | None = None, band: tuple[float, float] | None = None
) -> go.Figure:
    """Scores of one machine, a row per domain: normal clips filled, anomalous ones hatched, threshold dashed.

    Dragging sideways selects a band of scores; `band` is the one in force. `counts` as of `analysis.histogram`.
    """
    domains = [domain for domain in ("source", "target", "") if domain in set(counts["domain"])]
    figure = make_subplots(rows=len(domains), cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for row, domain in enumerate(domains, 1):
        own = counts[counts["domain"] == domain]
        for label, bars in own.groupby("label", dropna=False):
            kind = "all clips" if pd.isna(label) else ("anomaly" if label else "normal")
            name = f"{domain} {kind}".strip()
            colour = DOMAIN_COLOURS[domain]
            hatched = {"shape": "/", "fgcolor": colour, "bgcolor": "rgba(0,0,0,0)", "solidity": 0.4, "size": 6}
            figure.add_bar(
                x=(bars["low"] + bars["high"]) / 2,
                y=bars["count"],
                width=bars["high"] - bars["low"],
                name=kind,
                legendgroup=kind,
                showlegend=row == 1,
                marker={
                    "color": colour,
                    "line": {"color": colour, "width": 1},
                    "pattern": hatched if kind == "anomaly" else None,
                },
                opacity=0.95 if kind == "anomaly" else 0.6,
                hovertemplate=f"{name}<br>score %{{x:.4f}}<br>%{{y}} clips<extra></extra>",
                row=row,
                col=1,
            )
        figure.update_yaxes(title_text=f"{domain} clips".strip().capitalize(), row=row, col=1)
    lines = [(threshold, "threshold", THRESHOLD, "dash")]
    lines += [(what_if, "what if", WHAT_IF, "dot")] if what_if is not None else []
    for place, name, colour, dash in lines:
        figure.add_vline(x=place, line={"color": colour, "dash": dash, "width": 2})
        figure.add_annotation(
            x=place, y=1 if name == "threshold" else 1.07, yref="paper", text=f"{name} {place:.4f}", showarrow=False,
            yanchor="bottom", font={"color": colour},
        )  # fmt: skip
    if band:
        figure.add_vrect(x0=band[0], x1=band[1], fillcolor=WHAT_IF, opacity=0.14, line={"color": WHAT_IF, "width": 1})
    figure.update_xaxes(title_text="Anomaly score", row=len(domains), col=1)
    figure.update_layout(barmode="overlay", height=360, margin=MARGINS | {"t": 46}, legend=BELOW, bargap=0)
    figure.update_layout(dragmode="select", selectdirection="h")
    return figure


def roc(
    curves: Mapping[str, pd.DataFrame],
    captions: Mapping[str, str],
    marks: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> go.Figure:
    """ROC curves of one machine; the part that counts for the pAUC is shaded. `captions` name the curves.

    Every point of a curve carries its threshold as custom data, for clicks. `marks` are thresholds to point out:
    name → (false-alarm rate, share found) on each curve.
    """
    figure = go.Figure()
    figure.add_vrect(x0=0, x1=0.1, fillcolor="#7A8794", opacity=0.18, line_width=0)
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#7A8794", "width": 1}, showlegend=False,
        hoverinfo="skip",
    )  # fmt: skip
    for name, curve in curves.items():
        figure.add_scatter(
            x=curve["fpr"],
            y=curve["tpr"],
            customdata=curve["threshold"],
            mode="lines+markers",  # clicks need points
            marker={"size": 4},
            line={"color": DOMAIN_COLOURS[name], "width": 2.5, "dash": "dash" if name == "all" else "solid"},
            name=captions[name],
            hovertemplate="threshold %{customdata:.4f}<br>false alarms %{x:.1%}<br>found %{y:.1%}<extra></extra>",
        )
    for number, (name, places) in enumerate((marks or {}).items()):
        figure.add_scatter(
            x=[x for x, _ in places],
            y=[y for _, y in places],
            mode="markers",
            marker={"symbol": "diamond-open", "size": 12, "color": (THRESHOLD, WHAT_IF)[number], "line": {"width": 2}},
            name=name,
            hovertemplate=f"{name}<br>false alarms %{{x:.1%}}<br>found %{{y:.1%}}<extra></extra>",
        )
    figure.add_annotation(x=0.05, y=1.0, yanchor="bottom", text="pAUC", showarrow=False, font={"size": 11})
    figure.update_xaxes(title_text="False-alarm rate", range=[-0.01, 1.01], tickformat=".0%", constrain="domain")
    figure.update_yaxes(title_text="Found anomalies", range=[-0.01, 1.06], tickformat=".0%")
    inside = {"x": 0.98, "xanchor": "right", "y": 0.04, "yanchor": "bottom"}
    figure.update_layout(height=360, margin=MARGINS, legend=inside)
    return figure


def loss_curve(table: pd.DataFrame) -> go.Figure:
    """Reported losses, one line per training."""
    figure = go.Figure()
    for stage, rows in table.groupby("stage", sort=False):
        figure.add_scatter(x=rows["step"], y=rows["value"], mode="lines", name=str(stage))
    figure.update_xaxes(title_text="Step")
    figure.update_yaxes(title_text="Loss")
    below = BELOW | {"y": -0.35}
    figure.update_layout(height=260, margin=MARGINS, legend=below, showlegend=table["stage"].nunique() <= 6)
    return figure


def attribute_bars(counts: pd.DataFrame) -> go.Figure:
    """Training clips by attributes, source and target stacked; `counts` as of `analysis.inventory.by_attribute`."""
    figure = go.Figure()
    for domain in ("source", "target"):
        figure.add_bar(
            y=counts["attributes"],
            x=counts[f"train_{domain}"],
            orientation="h",
            name=domain,
            marker={"color": DOMAIN_COLOURS[domain], "pattern": {"shape": "/" if domain == "target" else ""}},
            hovertemplate=f"%{{y}}<br>%{{x}} {domain} clips<extra></extra>",
        )
    figure.update_yaxes(autorange="reversed", type="category", automargin=True)
    figure.update_xaxes(title_text="Training clips", rangemode="tozero")
    inside = {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"}
    figure.update_layout(barmode="stack", height=110 + 26 * max(3, len(counts)), margin=MARGINS, legend=inside)
    return figure


def level_histogram(counts: pd.DataFrame) -> go.Figure:
    """Levels of clips, near filled and far as a line; `counts` as of `analysis.inventory.levels`."""
    figure = go.Figure()
    near, far = (counts[counts["microphone"] == name] for name in ("near", "far"))
    figure.add_bar(
        x=(near["low"] + near["high"]) / 2, y=near["count"], width=near["high"] - near["low"], name="near",
        marker={"color": "#009E73", "line": {"width": 0}}, opacity=0.6,
        hovertemplate="near, %{x:.1f} dB<br>%{y} clips<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=(far["low"] + far["high"]) / 2, y=far["count"], name="far", mode="lines",
        line={"color": "#CC79A7", "width": 2.5, "shape": "hvh"},
        hovertemplate="far, %{x:.1f} dB<br>%{y} clips<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title_text="Level, dB of full scale (RMS)")
    figure.update_yaxes(title_text="Clips", rangemode="tozero")
    figure.update_layout(height=300, margin=MARGINS, legend=BELOW | {"y": -0.25}, bargap=0)
    return figure


def rank_correlations(table: pd.DataFrame) -> go.Figure:
    """How alike members order the test clips, as a heat map; `table` as of `api.rank_correlations`."""
    names = [str(name) for name in table]
    figure = go.Figure(
        go.Heatmap(
            z=table.to_numpy(),
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale=["#F4F7F7", "#6DBBB1"],  # light throughout, so that the dark figures are read on all of it
            texttemplate="%{z:.2f}",
            textfont={"color": "#14181C"},
            hovertemplate="%{y}<br>%{x}<br>rank correlation %{z:.3f}<extra></extra>",
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=110 + 44 * len(names), margin=MARGINS | {"t": 10})
    return figure


def machines_beside(table: pd.DataFrame, best: str) -> go.Figure:
    """Figures of a fusion by machine, beside those of its best member; bars begin at chance.

    `table` as the ``machines`` of `api.FusionFigures`.
    """
    figure = go.Figure()
    hatched = {"shape": "/", "fgcolor": "#7A8794", "bgcolor": "rgba(0,0,0,0)", "solidity": 0.4, "size": 6}
    for name, column, colour, pattern in ((best, "best", "#7A8794", hatched), ("fusion", "fused", "#26A094", None)):
        figure.add_bar(
            x=table["machine"],
            y=table[column] - 50,
            base=50,
            customdata=table[column],
            name=name,
            marker={"color": colour, "line": {"color": colour, "width": 1}, "pattern": pattern},
            hovertemplate=f"%{{x}}<br>{name} %{{customdata:.2f}} %<extra></extra>",
        )
    figure.update_yaxes(title_text="h-mean, % (50: chance)", range=[min(45, table[["fused", "best"]].min().min()), 100])
    above = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0}  # below, names of many machines stand aslant
    figure.update_layout(height=300, margin=MARGINS, barmode="group", legend=above)
    return figure


def confidence_window(counts: pd.DataFrame, low: float, high: float) -> go.Figure:
    """How sure the classifier is: generated clips filled, held-out recordings as an outline, the window shaded.

    `counts` as of `api.confidence_histogram`.
    """
    figure = go.Figure()
    figure.add_vrect(x0=low, x1=high, fillcolor="#26A094", opacity=0.14, line_width=0, layer="below")
    figure.add_bar(
        x=(counts["low"] + counts["high"]) / 2,
        y=counts["generated"],
        width=counts["high"] - counts["low"],
        customdata=counts["count"],
        name="generated",
        marker={"color": DOMAIN_COLOURS["target"]},
        hovertemplate="confidence %{x:.2f}<br>%{customdata} generated, %{y:.1f} %<extra></extra>",
    )
    if counts["recorded"].notna().any():
        figure.add_scatter(
            x=[*counts["low"], 1.0],
            y=[*counts["recorded"], counts["recorded"].iloc[-1]],
            mode="lines",
            line={"shape": "hv", "color": "#7A8794", "width": 2},
            name="recorded, held out",
            hovertemplate="confidence from %{x:.2f}<br>%{y:.1f} % of recordings<extra></extra>",
        )
    for edge in (low, high):
        figure.add_vline(x=edge, line={"color": THRESHOLD, "dash": "dash", "width": 1.5})
    figure.update_xaxes(title_text="Confidence of the classifier, near and far", range=[0, 1])
    figure.update_yaxes(title_text="Share, %")
    figure.update_layout(height=260, margin=MARGINS, legend=BELOW | {"y": -0.35}, bargap=0)
    return figure


def scored_among_normals(counts: pd.DataFrame, threshold: float, score: float) -> go.Figure:
    """Scores of a machine's normal training clips with one clip's score and the threshold among them; `counts` as of
    `api.normal_histogram`."""
    figure = go.Figure()
    figure.add_bar(
        x=(counts["low"] + counts["high"]) / 2, y=counts["count"], width=counts["high"] - counts["low"],
        name="normal training clips", marker={"color": DOMAIN_COLOURS["all"], "line": {"width": 0}}, opacity=0.8,
        hovertemplate="score %{x:.4f}<br>%{y} normal clips<extra></extra>",
    )  # fmt: skip
    low, high = min(counts["low"].min(), threshold, score), max(counts["high"].max(), threshold, score)
    for value, name, line, height in (
        (threshold, f"threshold {threshold:.4f}", {"color": THRESHOLD, "dash": "dash", "width": 2}, 1.0),
        (score, f"<b>this clip {score:.4f}</b>", {"color": WHAT_IF, "width": 3}, 1.1),
    ):
        figure.add_vline(x=value, line=line)
        side = "left" if value < (low + high) / 2 else "right"  # away from the edge
        figure.add_annotation(
            x=value, y=height, yref="paper", text=name, showarrow=False, xanchor=side, yanchor="bottom",
            font={"color": line["color"]},
        )  # fmt: skip
    room = 0.03 * (high - low) or 1.0
    figure.update_xaxes(title_text="Anomaly score", range=[low - room, high + room])
    figure.update_yaxes(title_text="Normal training clips")
    figure.update_layout(height=300, margin=MARGINS | {"t": 55}, showlegend=False, bargap=0)
    return figure


def percentile_shares(shares: pd.DataFrame) -> go.Figure:
    """Score percentiles of selected clips beside all others; `shares` as of `api.percentile_shares`."""
    figure = go.Figure()
    middle, width = (shares["low"] + shares["high"]) / 2, shares["high"] - shares["low"]
    figure.add_bar(
        x=middle, y=shares["rest"], width=width, name="others", marker={"color": DOMAIN_COLOURS["all"]}, opacity=0.5,
        hovertemplate="%{y:.1f} % of the others<extra></extra>",
    )  # fmt: skip
    figure.add_bar(
        x=middle, y=shares["here"], width=width, name="selected",
        marker={"color": "rgba(0,0,0,0)", "line": {"color": DOMAIN_COLOURS["source"], "width": 2}},
        hovertemplate="%{y:.1f} % of the selected<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title_text="Percentile among normal training clips", range=[-1, 101])
    figure.update_yaxes(title_text="Share, %")
    figure.update_layout(barmode="overlay", height=330, margin=MARGINS, legend=BELOW | {"y": -0.3}, bargap=0)
    return figure
