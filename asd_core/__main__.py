"""The command line: ``python -m asd_core``. What the commands do lives in `commands`.

Exit codes: 0 done; 1 a problem that is explained on stderr, or a check that found one; 2 wrong usage;
130 cancelled.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.markup import escape

from asd_core import __version__, terminal
from asd_core.commands import clips, data, generated, pretrain, project, report, runs, submission, tune, weights
from asd_core.commands.options import WORKSPACE, WorkspaceOption, open_workspace
from asd_core.types import AsdError, Cancelled

app = typer.Typer(
    name="asd_core",
    help="Train, score, explain and export anomalous-sound detectors (DCASE 2026 Task 2).\n\n"
    "Start with: [b]data simulate[/b], then [b]run logmel-maha --data demo --profile quick[/b], then [b]table[/b].",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
Command = Callable[..., None]
COMMANDS: tuple[Command, ...] = (
    runs.run,
    runs.table,
    runs.compare,
    tune.tune,
    runs.systems,
    generated.generate,
    generated.screen,
    generated.quality,
    clips.score,
    clips.explain,
    project.project,
    pretrain.pretrain,
    submission.evaluate,
    submission.export,
    submission.check_submission,
    report.report,
    data.doctor,
)
DATA_COMMANDS: tuple[Command, ...] = (data.simulate, data.degrade, data.download, data.show)
WEIGHTS_COMMANDS: dict[str, Command] = {
    "list": weights.list_weights,
    "fetch": weights.fetch_weights,
    "import": weights.import_weights,
    "verify": weights.verify_weights,
}

for command in COMMANDS:
    app.command()(command)

data_app = typer.Typer(help="Get, simulate and look at data sets.", no_args_is_help=True)
for command in DATA_COMMANDS:
    data_app.command()(command)
app.add_typer(data_app, name="data")

weights_app = typer.Typer(help="Get, check and list published checkpoints (BEATs, EAT).", no_args_is_help=True)
for name, command in WEIGHTS_COMMANDS.items():
    weights_app.command(name)(command)
app.add_typer(weights_app, name="weights")


@app.command()
def clean(workspace: WorkspaceOption = WORKSPACE) -> None:
    """Delete caches and the remains of unfinished work. Runs, trained networks and exports stay."""
    terminal.out.print(f"Removed the cache and {open_workspace(workspace).clean()} unfinished tasks.")


def _version(wanted: bool) -> None:
    if wanted:
        terminal.out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell more.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    handler = RichHandler(console=terminal.err, show_path=False, show_time=False)
    logging.basicConfig(level="INFO" if verbose else "WARNING", format="%(message)s", handlers=[handler])


def main() -> None:
    """Run the command line; a problem becomes one message and an exit code, never a traceback."""
    try:
        app()
    except AsdError as error:
        terminal.err.print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:  # no permission, no room, a file where a folder should be
        place = f": {error.filename}" if error.filename else ""
        terminal.err.print(
            f"[bold red]error:[/] {escape(f'{error.strerror or error}{place}')}. Nothing finished was lost.",
            soft_wrap=True,
        )
        sys.exit(1)
    except (Cancelled, KeyboardInterrupt):
        terminal.err.print("Cancelled. What was finished is kept; the same command continues.")
        sys.exit(130)


if __name__ == "__main__":
    main()
