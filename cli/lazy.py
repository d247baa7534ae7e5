"""Groups of commands that are imported when they are used, so that --help costs next to nothing."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup


class LazyGroup(TyperGroup):
    """Lists commands without importing any; the function of a name lies in the module of that name.

    table: name -> what it does. aliases: other names. package: where the modules are. A module may
    hold a Typer app of that name in place of a function: a group of its own.
    """

    table: ClassVar[dict[str, str]]
    package: ClassVar[str]
    aliases: ClassVar[dict[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself; None for an unknown name."""
        name = self.aliases.get(cmd_name, cmd_name)
        if name not in self.table:
            return None
        command = getattr(import_module(f"{self.package}.{name}"), name)
        if not isinstance(command, typer.Typer):
            app = typer.Typer(rich_markup_mode=None, add_completion=False)
            app.command(name)(command)
            command = app
        return typer.main.get_command(command)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As ever, but what a typing error is compared with is the table."""
        names: dict[str, Any] = dict.fromkeys([*self.table, *self.aliases])
        self.commands = names
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))
