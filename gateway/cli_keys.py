"""`understudy key …` and `understudy db …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli_support import (
    ConfigFile,
    Json,
    actor,
    command_group,
    declare_routes,
    note,
    open_context,
    print_json,
    print_table,
    reported,
    when,
)

if TYPE_CHECKING:
    from adapters.types import ApiKey

key_app = command_group("Make, list and revoke API keys.")
db_app = command_group("The database.")


@key_app.command()
@reported
def create(
    *,
    scope: Annotated[str, typer.Option(help="inference, operator, or both with a comma")],
    owner: Annotated[str, typer.Option(help="whose key it is; default: user@host")] = "",
    routes: Annotated[str, typer.Option(metavar="A,B", help="only these routes; default: all")] = "",
    rpm: Annotated[int, typer.Option(help="requests per minute; 0 = no limit")] = 0,
    tpm: Annotated[int, typer.Option(help="tokens per minute; 0 = no limit")] = 0,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make a key. Its secret is shown this once: it is the last line printed."""
    from adapters.keys import create_key

    with open_context(config) as context:
        declare_routes(context)
        names = _split(routes)
        for name in names:
            context.routes.get(name)  # a mistyped route would make a key that opens nothing
        key, secret = create_key(context.database, owner or actor(), _split(scope), names, rpm=rpm, tpm=tpm)
    if as_json:
        print_json({**_row(key), "secret": secret})
        return
    note(f"{key.id} of {key.owner}; keep its secret, it cannot be shown again:")
    typer.echo(secret)


@key_app.command("list")
@reported
def list_all(config: ConfigFile = None, as_json: Json = False) -> None:
    """All keys, without their secrets."""
    from adapters.keys import list_keys

    with open_context(config) as context:
        rows = [_row(key) for key in list_keys(context.database)]
    if not as_json:
        rows = [_for_people(row) for row in rows]
    print_table(rows, ("id", "owner", "scopes", "routes", "rpm", "tpm", "created", "revoked"), as_json)


@key_app.command()
@reported
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="such as key-1f2e3d4c5b6a")], config: ConfigFile = None
) -> None:
    """End a key: every worker refuses it within a second or two."""
    from adapters.keys import revoke_key

    with open_context(config) as context:
        key = revoke_key(context.database, key_id)
    note(f"{key.id} of {key.owner} is revoked")


@db_app.command()
@reported
def upgrade(config: ConfigFile = None) -> None:
    """Bring the database's schema to this program's. Safe to repeat."""
    with open_context(config, upgrade=True) as context:
        note(f"database {context.database.where} has schema {context.database.schema()}")


@db_app.callback()
def _group() -> None:
    """The database."""  # without a callback Typer would make `upgrade` the group itself


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _row(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "owner": key.owner,
        "scopes": sorted(key.scopes),
        "routes": sorted(key.routes),
        "rpm": key.requests_per_minute,
        "tpm": key.tokens_per_minute,
        "created": key.created_at,
        "revoked": key.revoked_at,
    }


def _for_people(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "scopes": ",".join(row["scopes"]),
        "routes": ",".join(row["routes"]) or "all",
        "rpm": row["rpm"] or None,
        "tpm": row["tpm"] or None,
        "created": when(row["created"]),
        "revoked": when(row["revoked"]),
    }
