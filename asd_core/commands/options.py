"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asd_core import api, config

if TYPE_CHECKING:
    from asd_core.artifacts import Workspace


def complete_system(incomplete: str) -> list[str]:
    return [name for name in api.systems() if name.startswith(incomplete)]


def complete_data(incomplete: str) -> list[str]:
    return [path.stem for path in (config.CONFIGS / "datasets").glob(f"{incomplete}*.yaml")]


def complete_profile(incomplete: str) -> list[str]:
    return [path.stem for path in (config.CONFIGS / "profiles").glob(f"{incomplete}*.yaml")]


WorkspaceOption = Annotated[Path, typer.Option("--workspace", help="Folder that holds everything computed.")]
DataOption = Annotated[
    str, typer.Option("--data", help="A data set of configs/datasets, or a folder.", autocompletion=complete_data)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
JobOption = Annotated[Path | None, typer.Option("--job", hidden=True, help="Report to this job folder of the app.")]
MachinesOption = Annotated[list[str] | None, typer.Option(help="Only these machines; repeat the option.")]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="full, or quick: small, for two cores.", autocompletion=complete_profile)
]
WORKSPACE = config.CONFIGS.parent / "workspace"


def open_workspace(root: Path) -> Workspace:
    from asd_core.artifacts import Workspace

    return Workspace(root.resolve())


def check_device(device: str) -> None:
    if device not in ("auto", "cpu"):
        raise typer.BadParameter(f'device "{device}" is not one of auto, cpu')
