"""The operator's bearer token: made at first start, kept in data_dir/operator.token, readable by its owner only."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from adapters.errors import ConfigError
from gateway.config import Settings, ensure_data_dir

FILE_NAME = "operator.token"


def operator_token(settings: Settings, *, create: bool = False) -> str:
    """The token of `control.operator_token`, else of the file; `create` makes the file first. Raises ConfigError."""
    if settings.control.operator_token:
        return settings.control.operator_token
    path = settings.data_dir / FILE_NAME
    if create:
        ensure_data_dir(settings)
        _write_once(path)
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: start the controller, which makes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if not token:
        raise ConfigError(f"{path} is empty: delete it and start the controller again")
    return token


def same_token(given: str, expected: str) -> bool:
    """Compare in constant time, whatever the lengths."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (given, expected))
    return hmac.compare_digest(*digests)


def _write_once(path: Path) -> None:
    """Whole or not at all, and only by the first of several processes."""
    temporary = path.with_name(f"{FILE_NAME}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
