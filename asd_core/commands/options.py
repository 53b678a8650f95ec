"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asd_core import api, config

if TYPE_CHECKING:
    from asd_core.artifacts import Workspace
    from asd_core.engine.cluster import Cluster


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
EngineOption = Annotated[
    str, typer.Option("--engine", help="local: this computer. ray: the nodes of a cluster; docs/cluster.md.")
]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster, HOST:PORT. Default: of configs/cluster.yaml, else RAY_ADDRESS."),
]
WORKSPACE = config.CONFIGS.parent / "workspace"


def open_workspace(root: Path) -> Workspace:
    from asd_core.artifacts import Workspace

    return Workspace(root.resolve())


def check_device(device: str) -> None:
    if device not in ("auto", "cpu"):
        raise typer.BadParameter(f'device "{device}" is not one of auto, cpu')


def chosen_cluster(engine: str, address: str | None) -> Cluster | None:
    """The cluster to run tasks on; None for this computer.

    Raises:
        AsdError: no address is known, or it or configs/cluster.yaml is not valid.
    """
    if engine not in ("local", "ray"):
        raise typer.BadParameter(f'engine "{engine}" is not one of local, ray')
    if engine == "local":
        if address is not None:
            raise typer.BadParameter("--address is of a Ray cluster; add --engine ray")
        return None
    from asd_core.engine.cluster import require_cluster

    return require_cluster(address)
