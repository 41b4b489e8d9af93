# SPDX-License-Identifier: BSD-3-Clause
"""The ``ssdag`` command."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ssdag.cli.launch import existing_file, run_script, split_arguments
from ssdag.errors import ConfigError, SsdagError
from ssdag.version import __version__

app = typer.Typer(
    name="ssdag",
    help="Couple simulation and AI: futures, graphs, executors and an orchestrator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ssdag {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Couple simulation and AI: futures, graphs, executors and an orchestrator."""


@app.command(
    # All words are the demonstration's own, --help too.
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
    options_metavar="[OPTIONS OF THE DEMO]",
)
def demo(context: typer.Context) -> None:
    """Search for molecules on real chemistry (about a minute on 2 cores).

    Active learning on 1046 molecules: GFN2-xTB simulations, a surrogate that learns
    from them through the orchestrator, and the recall of the search at the end. Needs
    the extra [bold]ssdag\\[chem][/bold]. Its own options: [bold]ssdag demo --help[/bold].
    """
    from ssdag.cli.demo import run_demo

    raise typer.Exit(run_demo(context.args))


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    script: Annotated[
        Path, typer.Argument(metavar="SCRIPT", help="A Python file.", show_default=False)
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENTS", help="What the script gets.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the configuration of the engine that the script starts "
            "without naming one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a Python script, with the configuration of a TOML file.

    Arguments, tracebacks and exit code are those of a plain [bold]python SCRIPT[/bold];
    Ctrl-C gives 130. [bold]--config[/bold] may stand before or after the script; words
    after [bold]--[/bold] go to the script untouched:

    [bold]ssdag run search.py --config two_workers.toml 200 -- --config mine.yaml[/bold]
    """
    later, own = split_arguments(arguments or [])
    chosen = Path(later) if later is not None else config
    existing_file(script, "script")
    if chosen is not None:
        existing_file(chosen, "configuration")
        from ssdag.config import Config
        from ssdag.dataflow.session import set_default_config

        set_default_config(Config.from_toml(chosen))
    raise SystemExit(run_script(script, own))


@app.command(context_settings={"allow_interspersed_args": False})
def plan(
    script: Annotated[
        Path | None,
        typer.Argument(metavar="SCRIPT", help="A Python file.", show_default=False),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENTS", help="What the script gets.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file with the configuration.", show_default=False),
    ] = None,
) -> None:
    """Print what would be submitted and launched, with no scheduler present.

    Without a script: the batch script of a block, the command that submits it, the launch
    line of the managers, and who works where on a node, for each executor of the
    configuration. With a script also its tasks: the script's own code runs, its tasks and
    services do not. Where it needs the value of a task, the plan ends and says so.

    [bold]ssdag plan search.py --config polaris.toml[/bold]
    """
    later, own = split_arguments(arguments or [])
    chosen = Path(later) if later is not None else config
    if script is None and chosen is None:
        raise ConfigError("name a script, or a configuration by --config FILE")
    if script is not None:
        existing_file(script, "script")
    if chosen is not None:
        existing_file(chosen, "configuration")
    from ssdag.cli.plan.command import plan as planned

    typer.echo(planned(script, chosen, own), nl=False)


@app.command()
def info() -> None:
    """Print versions, and what is found on this machine: servers, schedulers, compilers, GPUs."""
    from ssdag.cli.info import collect, render

    render(collect())


def main() -> None:
    """Run the command line; what the ``ssdag`` script calls.

    An :class:`~ssdag.errors.SsdagError` is printed without a traceback and gives exit
    code 2, as for wrong usage.
    """
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:  # closed: ``ssdag info >&-``
                sys.stdout.flush()
    except SsdagError as error:
        _complain(str(error))
        sys.exit(2)
    except OSError as error:  # what we print cannot be written
        # What is left in the buffer must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:  # a reader that has enough: ``ssdag info | head -1``
            _complain(error.strerror or str(error))
        sys.exit(1)


def _complain(text: str) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("error: ", style="bold red").append(text, style="default"))


if __name__ == "__main__":
    main()
