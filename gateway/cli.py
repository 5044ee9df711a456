"""The root command `understudy`. Sub-commands are named by import string and loaded when they are called or helped.

Other packages add theirs through the entry-point group `understudy.commands` (name = "module:attribute"), so that the
gateway needs not know them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# name → (module:attribute, one line of help); the attribute is a Typer app or a plain function.
COMMANDS = {
    "init": ("gateway.cli_init:init_command", "Write a commented understudy.toml."),
    "up": ("gateway.cli_serve:up_command", "All processes on this machine, supervised."),
    "serve": ("gateway.data_plane.server:serve_command", "The data plane: the OpenAI-compatible API."),
    "controller": ("gateway.cli_serve:controller_command", "The controller and the operator API."),
    "reward": ("gateway.cli_reward:reward_command", "The scoring service: graders for production."),
    "guard": ("gateway.cli_guard:guard_app", "The guard service: Llama Guard on prompts and answers."),
    "engine": ("gateway.cli_serve:engine_command", "The vLLM engines of this machine."),
    "adapter": ("gateway.cli_adapters:adapter_app", "Push, list, show, verify, archive and release versions."),
    "route": ("gateway.cli_adapters:route_app", "Public model names and what they serve."),
    "rollout": ("gateway.cli_rollout:rollout_app", "Give a new version its traffic step by step, on evidence."),
    "slo": ("gateway.cli_slo:slo_app", "Service level objectives: Prometheus rules, and what their alerts can see."),
    "key": ("gateway.cli_adapters:key_app", "API keys."),
    "db": ("gateway.cli_adapters:db_app", "The database."),
    "capacity": ("gateway.cli_capacity:capacity_command", "How many engines a load needs, and which slots."),
    "doctor": ("gateway.cli_serve:doctor_command", "What is wrong, and how to mend it."),
}


class LazyGroup(TyperGroup):
    """Lists commands without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, ours first."""
        return [*COMMANDS, *sorted(_foreign())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command. Typer brings its own click, so its types are not named here."""
        found = COMMANDS.get(cmd_name) or _foreign().get(cmd_name)
        return _load(cmd_name, found[0]) if found else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in `--help`, from the lines above: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in (COMMANDS | _foreign()).items()])


def _load(name: str, target: str) -> Any:
    from gateway.cli_support import reported

    module, _, attribute = target.partition(":")
    found: Any = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
    else:
        single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        single.command(name)(reported(found))
        command = typer.main.get_command(single)
    command.name = name
    return command


def _foreign() -> dict[str, tuple[str, str]]:
    """Commands that installed distributions register; the help line is the attribute's name until it is loaded."""
    return {entry.name: (entry.value, _HELP.get(entry.name, "")) for entry in entry_points(group="understudy.commands")}


_HELP = {
    "demo": "The whole story on a real vLLM on this machine's CPU.",
    "eval": "Run a suite against a version, as it serves.",
    "gate": "The promotion rules, rule by rule: may this version meet users?",
    "train": "SFT, DPO, KTO, reward models, GRPO, RLOO: from data to a registered version.",
}

app = typer.Typer(
    cls=LazyGroup,
    name="understudy",
    help="Ship LoRA adapters to production without fear.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(version("understudy"))
        except PackageNotFoundError:
            typer.echo("not installed")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Ship LoRA adapters to production without fear."""


def main() -> None:
    """Entry point of the `understudy` script."""
    app()


if __name__ == "__main__":
    main()
