"""Who is asking, and what they may use. Keys are looked up by the sha256 of the secret; the secret is never kept.

A worker builds a new Authenticator when the keys change and swaps the reference: it is immutable.

Without `required`, a request without a key, or with a made-up one, is the anonymous principal: OpenAI's clients
cannot be made to send none, and refusing "EMPTY" would protect nothing. A key in our own form (us-…) that is unknown
or revoked is refused even then: whoever sends it believes to be somebody, and must learn that it does not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from adapters.types import ApiKey
from gateway.errors import forbidden, invalid_key

INFERENCE, OPERATOR = "inference", "operator"
KEY_FORM: Final = b"us-"  # how adapters.keys begins every secret


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `owner` scopes units and feedback; several keys may share it."""

    owner: str  # empty: anonymous
    owner_tag: bytes  # 4 bytes, goes into response ids
    key_id: str  # empty: anonymous
    scopes: frozenset[str]
    routes: frozenset[str]  # empty: every route
    requests_per_minute: int = 0  # 0: no limit
    tokens_per_minute: int = 0
    limited: bool = field(init=False)  # the limiter has to be asked
    operator: bool = field(init=False)  # may ask for pinned versions and arms

    def __post_init__(self) -> None:
        object.__setattr__(self, "limited", self.requests_per_minute > 0 or self.tokens_per_minute > 0)
        object.__setattr__(self, "operator", OPERATOR in self.scopes)


def owner_tag(owner: str) -> bytes:
    """4 bytes that stand for an owner in response ids."""
    return hashlib.sha256(b"understudy owner\0" + owner.encode("utf-8", "surrogatepass")).digest()[:4]


class Authenticator:
    """Knows the keys (adapters.keys.load_keys).

    `loopback_operator`: without a key one is an operator too, because only this machine can ask (and keys are not
    required).
    """

    def __init__(self, keys: Iterable[ApiKey], required: bool, loopback_operator: bool) -> None:
        self._required = required
        self._principals = {key.secret_hash: _principal(key) for key in keys if key.revoked_at is None}
        scopes = {INFERENCE, OPERATOR} if loopback_operator and not required else {INFERENCE}
        self._anonymous = Principal("", owner_tag(""), "", frozenset(scopes), frozenset())

    def authenticate(self, authorization: bytes | None, x_api_key: bytes | None = None) -> Principal:
        """The principal of a request's two headers (Bearer first). Raises ApiError (401)."""
        if authorization is not None and authorization.startswith(b"Bearer "):  # as every client writes it
            secret = authorization[7:].strip()
        else:
            scheme, _, secret = (authorization or b"").partition(b" ")
            secret = secret.strip() if scheme.lower() == b"bearer" else b""
        secret = secret or (x_api_key or b"").strip()
        if not secret:
            if self._required:
                raise invalid_key(presented=False)
            return self._anonymous
        principal = self._principals.get(hashlib.sha256(secret).digest())
        if principal is not None:
            return principal
        if self._required or secret.startswith(KEY_FORM):
            raise invalid_key(presented=True)
        return self._anonymous


def check_route(principal: Principal, route: str) -> None:
    """Raises ApiError (403) unless the principal may ask `route` (a route's or the base's public name) for answers."""
    if INFERENCE not in principal.scopes:
        raise forbidden("this API key is not for inference: use one with the scope inference")
    if principal.routes and route not in principal.routes:
        raise forbidden("this API key may not use this model: GET /v1/models lists those it may", "model")


def may_use(principal: Principal, route: str) -> bool:
    """True when check_route() would pass; for listings."""
    return INFERENCE in principal.scopes and (not principal.routes or route in principal.routes)


def is_operator(principal: Principal) -> bool:
    """May ask for pinned versions."""
    return principal.operator


def _principal(key: ApiKey) -> Principal:
    return Principal(
        key.owner,
        owner_tag(key.owner),
        key.id,
        key.scopes,
        key.routes,
        key.requests_per_minute,
        key.tokens_per_minute,
    )
