"""How good the generated clips of a machine are, beside yardsticks that tell what the figures are worth.

This looks at labelled test clips, as metrics do: normal ones of a condition are what its generated clips should sound
like, and the generator has not heard them. Nothing that is trained depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from asd_core import config
from asd_core.artifacts import read_table, write_table
from asd_core.config import validate
from asd_core.data import audio
from asd_core.files import digest
from asd_core.pipeline.embedding import load_encoder
from asd_core.pipeline.generated import SCREENING_VERSION, candidates
from asd_core.pipeline.tasks import EMBEDDING_VERSION, Context, Task, input_of_kind, inputs_of_kind
from asd_core.types import NORMAL, SAMPLE_RATE, TEST, TRAIN, AsdError, Clip, Progress
from asd_core.views import VIEWS
from asd_core.views.base import MICROPHONES

if TYPE_CHECKING:
    from asd_core.backbones import Backbone
    from asd_core.synthesis.quality import Sets

QUALITY_VERSION = 1
DISTANCES = [
    *("machine", "condition", "microphone", "space", "measure", "reference"),
    *("generated", "real", "other", "nearest", "noise", "rows", "said"),
]
FRAMES = 31  # of a log-mel window of one second
WINDOW = 2 * SAMPLE_RATE  # samples of an excerpt for the encoder, one every second
MOST_OTHERS = 20  # clips of another condition that are listened to

Space = Callable[[np.ndarray], np.ndarray]
"""A waveform (T,) → windows (N, D)."""


def check_listener(generator: config.Generator) -> None:
    """Before hours of training: is there such a view, network and output, and are its weights here?

    Raises:
        AsdError: says what is missing.
    """
    import torch

    from asd_core.backbones import BACKBONES

    where = f"generator {generator.name}, listener"
    listener = generator.listener
    VIEWS.create(listener.view.spec, where)
    cls = BACKBONES[listener.backbone.name]
    cls.files(listener.backbone.spec)
    with torch.device("meta"):
        backbone = BACKBONES.create(cls.resolve(listener.backbone.spec, longest_seconds=0.0), where)
    fitting = [output for output in backbone.outputs if backbone.kind_of(output) == "vector"]
    if listener.output not in fitting:
        raise AsdError(
            f'{where}: no output "{listener.output}" of one vector per clip. There is: {", ".join(fitting)}.'
        )


def quality_task(kept: Task, context: Context, listener: Task | None) -> Task:
    """The task that measures what a screen task keeps; `listener` is the training that the frozen encoder starts from."""
    from asd_core.backbones import BACKBONES
    from asd_core.views.logmel import LogMel

    machine = kept.spec["machine"]
    prints = [context.fingerprint(machine, split) for split in (TRAIN, TEST)]
    inputs = (kept, listener) if listener else (kept,)
    asked = kept.spec["generator"]["listener"]
    backbone, view = BACKBONES[asked["backbone"]["name"]], VIEWS[asked["view"]["name"]]
    files = [context.digest(path) for path in backbone.files(asked["backbone"])]
    versions = [QUALITY_VERSION, SCREENING_VERSION, EMBEDDING_VERSION, LogMel.version, backbone.version, view.version]
    key = digest(["quality", versions, asked, files, prints, [t.key for t in inputs]])
    return Task("quality", key, f"measure the generated clips of {machine}", kept.spec, inputs, 1.0)


def measure(task: Task, context: Context, folder: Path, progress: Progress) -> dict[str, Any]:
    """distances.parquet: one row per condition, microphone, space and measure, with the columns of
    `synthesis.quality.compare`; samples.parquet: one row per condition and microphone."""
    from asd_core.synthesis.conditions import Condition
    from asd_core.synthesis.generator import load_generator, shaped_noise
    from asd_core.synthesis.quality import compare, diversity, frechet, kernel_distance, verdict

    options = validate(config.Generator, task.spec["generator"], task.title)
    machine = task.spec["machine"]
    (drawn,), (trained,) = (inputs_of_kind(task, kind) for kind in ("generate", "generator"))
    kept = task.inputs[0].folder(context.workspace)
    table = read_table(kept / "candidates.parquet")
    generator = load_generator(trained.folder(context.workspace), options, context.device)
    training, held_out = _recordings(context, machine)
    spaces = {"log-mel": _log_mel(), "encoder": _encoder(options.listener, task, context)}
    heard_before: dict[tuple[str, int, str], np.ndarray] = {}
    distances, samples = [], []
    for place, text in enumerate(task.spec["counts"]):
        progress(place / len(task.spec["counts"]), f"{task.title}: {text}")
        condition = Condition.parse(text)
        own = table[table["condition"] == text]
        generated = [audio.read(clip.path) for clip in candidates(drawn.folder(context.workspace), own[own["kept"]])]
        heard = [audio.read(clip.path) for clip in held_out.get(text, [])]
        known = [audio.read(clip.path) for clip in training.get(text, [])]
        reference, real = (heard, known) if heard else (known[::2], known[1::2])
        others = {name: clips for name, clips in training.items() if name != text}
        length = max((wave.shape[-1] for wave in (generated or known)), default=SAMPLE_RATE)
        noise = list(shaped_noise(generator, condition, length, max(len(generated), 2), options.seed))
        for i, one in enumerate(MICROPHONES[: generator.channels]):
            for name, space in spaces.items():
                for text_, clips in others.items():
                    if (text_, i, name) not in heard_before:
                        waves = (audio.read(clip.path) for clip in clips[:MOST_OTHERS])
                        heard_before[text_, i, name] = np.concatenate([space(wave[i]) for wave in waves])
                rest = {other: heard_before[other, i, name] for other in others}
                sets = _sets(space, i, generated, reference, real, rest, noise)
                if sets is None:
                    continue
                for title, distance in (("Fréchet", frechet), ("kernel", kernel_distance)):
                    found = compare(sets, distance)
                    row = {"machine": machine, "condition": text, "microphone": one, "space": name, "measure": title}
                    against = "held-out" if heard else "training"
                    distances.append(row | {"reference": against} | found | {"said": verdict(found, against)})
            vectors = [_clip_vectors(waves, i) for waves in (generated, known or reference)]
            samples.append(
                {
                    "machine": machine,
                    "condition": text,
                    "microphone": one,
                    "recorded": len(known),
                    "wanted": task.spec["counts"][text],
                    "drawn": len(own),
                    "kept": len(generated),
                    "taken for it": float(own[f"{one}_agrees"].mean()) if len(own) else np.nan,
                    "confidence": float(own[f"{one}_confidence"].median()) if len(own) else np.nan,
                    "diversity": diversity(*vectors) if all(map(len, vectors)) else np.nan,
                    "copy distance": float(own[f"{one}_copy_distance"].median()) if len(own) else np.nan,
                    "copies": float((own[f"{one}_copy_share"] < options.screening.near_copy).mean()),
                }
            )
    write_table(folder / "distances.parquet", pd.DataFrame(distances, columns=DISTANCES))
    write_table(folder / "samples.parquet", pd.DataFrame(samples))
    return {}


def _recordings(context: Context, machine: str) -> tuple[dict[str, list[Clip]], dict[str, list[Clip]]]:
    """Recorded normal clips of a machine by condition: those of training, and labelled test clips."""
    from asd_core.synthesis.conditions import Condition

    def grouped(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
        groups: dict[str, list[Clip]] = {}
        for clip in clips:
            groups.setdefault(Condition.of(clip).text, []).append(clip)
        return groups

    truth = context.data.truth
    known = [(clip, truth[clip.clip_id]) for clip in context.data.of(machine, TEST) if clip.clip_id in truth]
    normal = [replace(clip, domain=t.domain, attributes=t.attributes) for clip, t in known if t.label == NORMAL]
    return grouped(context.data.of(machine, TRAIN)), grouped(normal)


def _sets(
    space: Space,
    microphone: int,
    generated: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    real: Sequence[np.ndarray],
    others: dict[str, np.ndarray],
    noise: Sequence[np.ndarray],
) -> Sets | None:
    """Windows of everything as one microphone heard it; None where nothing is generated or there is no reference."""
    from asd_core.synthesis.quality import Sets

    def windows(waves: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([space(wave[microphone]) for wave in waves])

    if not generated or not reference:
        return None
    return Sets(
        windows(generated),
        windows(reference),
        windows(real) if real else None,
        others,
        windows(noise),
    )


def _log_mel() -> Space:
    from asd_core.synthesis.quality import windows
    from asd_core.views.logmel import LogMel

    view = LogMel()
    return lambda wave: windows(view(wave[None]), FRAMES)


def _clip_vectors(waves: Sequence[np.ndarray], microphone: int) -> np.ndarray:
    """(N, 2F) mean and deviation of the log-mel bands of whole clips."""
    from asd_core.views.logmel import LogMel

    view = LogMel()
    levels = [view(wave[microphone : microphone + 1]) for wave in waves]
    return np.array([np.concatenate([x.mean(axis=1), x.std(axis=1)]) for x in levels])


def _encoder(listener: config.Listener, task: Task, context: Context) -> Space:
    """Windows through the frozen encoder: as published, or as its own start has left it."""
    import torch

    from asd_core.training import loop

    backbone = _frozen(listener, task, context)
    view = VIEWS.create(listener.view.spec)
    device = loop.pick_device(context.device)
    backbone.to(device)

    def space(wave: np.ndarray) -> np.ndarray:
        starts = range(0, max(len(wave) - WINDOW, 0) + 1, SAMPLE_RATE)
        excerpts = [backbone.prepare(view(wave[None, start : start + WINDOW])) for start in starts]
        with torch.inference_mode():
            found = backbone.embed(torch.from_numpy(np.stack(excerpts)).to(device), listener.output)
        return found.float().cpu().numpy().astype(np.float64)

    return space


def _frozen(listener: config.Listener, task: Task, context: Context) -> Backbone:
    from asd_core.backbones import BACKBONES

    start = input_of_kind(task, "train")
    spec = listener.backbone.spec
    backbone = BACKBONES.create(BACKBONES[spec["name"]].resolve(spec, longest_seconds=0.0), task.title)
    backbone.begin(load_encoder(start.folder(context.workspace)) if start else None)
    return backbone.frozen()
