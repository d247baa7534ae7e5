"""The prolip-search command: which commands there are, and one line for every error.

A command's module is imported when the command runs, and names its heavy parts through the lazy
`prolip_search` package, so that --help costs no more than Typer itself.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import prolip_search
from prolip_search.cli.lazy import LazyGroup
from prolip_search.cli.terminal import note

# name -> what it does; the function of that name lies in the module of that name.
COMMANDS = {
    "index": "Index photos, or bring an index up to date.",
    "query": "Find the photos that a text or a picture describes.",
    "similar": "Find the photos most like one photo.",
    "calibrate": "Make confidences keep their word: say of a few results whether they fit.",
    "judge": "Say of results whether they fit, such as `judge LAST 3 no`.",
    "status": "Say what the index holds.",
    "verify": "Check the index, and every file that it remembers.",
    "optimize": "Make the index small and fast again after many changes.",
    "demo": "Index a few sample photos and ask them questions.",
    "train": "Train an encoder from captioned photos.",
    "export": "Make an encoder of a training checkpoint.",
    "evaluate": "Measure what an encoder can do, on data of your own.",
}
ALIASES = {"search": "query"}
INTERRUPTED = 130
BRIEF = frozenset({"query", "search", "similar", "status"})
NEW_OBJECTS = 100_000  # before a brief command looks for cycles of objects; Python's own is 700


class Commands(LazyGroup):
    """The table above."""

    table = COMMANDS
    aliases = ALIASES
    package = "prolip_search.cli"


app = typer.Typer(
    cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
)


@app.callback(invoke_without_command=True)
def prolip(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Search photos by what they show; every answer says how sure it is.

    Results go to standard output, all else to standard error. Exit status: 0 something was found
    or done, 1 nothing was found, 2 an error.
    """
    if version:
        print(f"prolip-search {prolip_search.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status. Every error of ours is one line on standard error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot spell
    if arguments is not None:
        return _run(arguments)
    # Looking for cycles, as modules are imported and again at the end, took a fifth of a query's
    # CPU time. What decodes photos goes on looking: there an object can hold many megabytes.
    if BRIEF.intersection(sys.argv[1:2]):
        gc.set_threshold(NEW_OBJECTS)
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()


def _run(arguments: Sequence[str]) -> int:
    command = typer.main.get_command(app)
    try:
        # Not command.main(): it would turn Ctrl-C and closed pipes into endings of its own.
        with command.make_context("prolip-search", list(arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as done:
        return done.exit_code
    except typer.TyperException as error:
        where = getattr(error, "ctx", None)
        path = where.command_path if where else "prolip-search"
        note(f"prolip-search: {_sentence(error.format_message())} See `{path} --help`.")
    except prolip_search.ProlipSearchError as error:
        note(f"prolip-search: {error}")
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough. Python would still flush at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 2


def _sentence(text: str) -> str:
    text = text.replace("Value error, ", "")  # what Typer's validation puts before a reason
    return text if text.endswith((".", "?", "!")) else f"{text}."


if __name__ == "__main__":
    sys.exit(main())
