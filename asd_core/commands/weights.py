"""Get, check and list published checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from asd_core import api, terminal
from asd_core.commands.options import (
    JobOption,
    JsonOption,
)
from asd_core.types import AsdError

if TYPE_CHECKING:
    pass


def _complete_checkpoint(incomplete: str) -> list[str]:
    from asd_core import weights

    return [name for name in weights.catalogue() if name.startswith(incomplete)]


CheckpointsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names as in configs/weights.yaml; default: all that apply.", autocompletion=_complete_checkpoint
    ),
]


def list_weights(as_json: JsonOption = False) -> None:
    """List published checkpoints: is the file here, where it belongs, its licence, which systems start from it."""
    import pandas as pd

    rows = api.checkpoints()
    if as_json:
        terminal.print_json([row.to_dict() for row in rows])
        return
    shown = [
        {
            "checkpoint": row.name,
            "state": row.state,
            "MB": None if row.bytes is None else f"{row.bytes / 1e6:.0f}",
            "licence": row.licence,
            "needed by": ", ".join(row.used_by) or "–",
            "file": row.path.name,
            "get it with": "fetch" if row.can_fetch else "a browser, then import",
        }
        for row in rows
    ]
    pages = "\n".join(dict.fromkeys(row.page for row in rows))
    terminal.print_table(pd.DataFrame(shown), f"Checkpoints in {api.weights_folder()}", f"From:\n{pages}")
    for row in rows:
        if row.problem:
            terminal.err.print(f"[yellow]{row.name}:[/] {escape(row.problem)}", highlight=False, soft_wrap=True)


def fetch_weights(names: CheckpointsArgument = None, job: JobOption = None) -> None:
    """Download checkpoints that have a plain address, and check them. Repeating continues.

    Without names: those that a system needs. BEATs needs a browser; see `weights import`.
    """
    with terminal.reporting(job) as progress:
        from asd_core import remote, weights
        from asd_core.backbones import pretrained

        needed = weights.used_by()
        chosen = names or [one.name for one in weights.catalogue().values() if one.url and one.name in needed]
        if not chosen:
            raise AsdError("No system needs a checkpoint that can be fetched. Name one; `weights list` lists them.")
        for i, name in enumerate(chosen):
            step = remote.share(progress, i / len(chosen), 1 / len(chosen))
            path = weights.fetch(name, pretrained.read, step)
            terminal.err.print(f"{name}: {escape(str(path))}", highlight=False, soft_wrap=True)


def import_weights(
    file: Annotated[Path, typer.Argument(help="A checkpoint that you have got by other means.")],
    name: Annotated[
        str | None,
        typer.Option(
            "--as", help="Which checkpoint it is; default: told by its file name.", autocompletion=_complete_checkpoint
        ),
    ] = None,
) -> None:
    """Check a checkpoint file and copy it to where it belongs."""
    from asd_core import weights
    from asd_core.backbones import pretrained

    known = name or weights.guess(file)
    path = weights.import_file(file, known, pretrained.read)
    terminal.err.print(f"{known}: {escape(str(path))}", highlight=False, soft_wrap=True)


def verify_weights(names: CheckpointsArgument = None, job: JobOption = None) -> None:
    """Read checkpoints in full and compare them with what is published, or was recorded when they came."""
    with terminal.reporting(job) as progress:
        from asd_core import weights
        from asd_core.backbones import pretrained

        chosen = names or [found.checkpoint.name for found in weights.statuses() if found.state != weights.ABSENT]
        outcomes = []
        for i, name in enumerate(chosen):
            progress(i / len(chosen), f"checking {name}")
            outcomes.append(weights.verify(name, pretrained.read))
        for found in outcomes:
            if found.state == weights.PRESENT:
                terminal.out.print(f"{found.checkpoint.name}: sound, SHA-256 {found.sha256}", soft_wrap=True)
        if not outcomes:
            terminal.out.print(f"There is no checkpoint in {escape(str(weights.folder()))}.", soft_wrap=True)
        if bad := [found for found in outcomes if found.state != weights.PRESENT]:
            told = [f"{f.checkpoint.name}: {f.problem or f'there is no file {f.path}.'}" for f in bad]
            raise AsdError("\n".join(told))
