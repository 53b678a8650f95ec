"""Pre-train the encoder that comes with the project, or another like it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asd_core import config, terminal
from asd_core.commands.options import WORKSPACE, JsonOption, WorkspaceOption, check_device, open_workspace
from asd_core.types import AsdError


def complete_recipe(incomplete: str) -> list[str]:
    return [path.stem for path in (config.CONFIGS / "pretraining").glob(f"{incomplete}*.yaml")]


def pretrain(
    recipe: Annotated[
        str, typer.Argument(help="A recipe of configs/pretraining, or a YAML file.", autocompletion=complete_recipe)
    ] = "studio_mini",
    output: Annotated[Path, typer.Option(help="The weights; a .json with recipe and ratings beside it.")] = Path(
        "studio_mini.safetensors"
    ),
    device: Annotated[str, typer.Option(help="auto: the fastest there is; or cpu.")] = "auto",
    as_json: JsonOption = False,
    workspace: WorkspaceOption = WORKSPACE,
) -> None:
    """Record simulated machines over wide ranges, and teach a small BEATs to tell their states and faults apart.

    What is recorded and trained is kept in the workspace; repeating the call goes on from there.

    Example: pretrain studio_mini --output studio_mini.safetensors
    """  # fmt: skip
    check_device(device)
    if output.suffix != ".safetensors":
        raise AsdError(f"--output must end in .safetensors, got {output}.")
    with terminal.reporting(None) as progress:
        from asd_core.pretraining.recipe import load_recipe
        from asd_core.pretraining.training import pretrain as run

        asked = load_recipe(recipe)
        found = run(asked, open_workspace(workspace).root / "pretraining", output, device, progress)
    last = found.rates[-1]
    if as_json:
        terminal.print_json({"file": str(found.file), "sha256": found.sha256, "rates": found.rates})
        return
    size = found.file.stat().st_size / 1e6
    terminal.out.print(
        f"{found.file}: {found.parameters / 1e6:.2f} M weights, {size:.1f} MB, SHA-256 {found.sha256}\n"
        f"Frozen, on {asked.sound.held_out} designs it never heard: mean AUC {last['all']:.3f}",
        highlight=False,
        soft_wrap=True,
    )
