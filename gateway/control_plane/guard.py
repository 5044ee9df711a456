"""Who may talk to the operator API: the bearer token always, and no web page that a browser was lured to.

A page elsewhere cannot read the token, but a DNS name that is pointed at 127.0.0.1 makes a browser treat this port as
that page's own. So the Host must be an address or a name of ours, and an Origin, where there is one, the same.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.control_plane.token import same_token
from gateway.errors import ApiError, forbidden

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})  # for probes and scrapers, under whatever name they use
ALERTS = "/api/v1/alerts"
PAGE = "/"                                                   # shows nothing without the token


class Guard:
    """Checks every request. `host` is what the API listens on; `alerts_token` opens the receiver of alerts only."""

    def __init__(self, token: str, host: str, alerts_token: str = "") -> None:
        self._token = token
        self._alerts_token = alerts_token
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raises ApiError: 403 for a foreign Host or Origin, 401 without the token."""
        if path in OPEN_PATHS:
            return
        host = headers.get("host", "")
        if not self._ours(host):
            raise forbidden("this Host name is not ours: use the address the operator API listens on")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise forbidden("requests from other origins are refused")
        if path == PAGE:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._opens(path, given.strip()):
            raise ApiError(
                401,
                "the operator token is needed: send `Authorization: Bearer …` with what data_dir/operator.token holds",
                type="authentication_error",
                code="invalid_operator_token",
                headers=[("www-authenticate", "Bearer")],
            )

    def _opens(self, path: str, given: str) -> bool:
        """True for the operator's token, and on the path of alerts for theirs."""
        if path == ALERTS and self._alerts_token and same_token(given, self._alerts_token):
            return True
        return same_token(given, self._token)

    def _ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
