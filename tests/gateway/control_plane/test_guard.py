from __future__ import annotations

import pytest

from gateway.control_plane.guard import Guard
from gateway.errors import ApiError

HEADERS = {"host": "127.0.0.1:8081", "authorization": "Bearer secret"}


@pytest.mark.parametrize(("host", "name"), [("operator.internal", "operator.internal:8081"), ("0.0.0.0", "10.1.2.3")])
def test_the_configured_name_and_addresses_are_ours(host, name):
    Guard("secret", host).check("/api/v1/keys", {**HEADERS, "host": name})


def test_only_exact_paths_are_open():
    guard = Guard("secret", "127.0.0.1")
    guard.check("/metrics", {})
    for path in ("/metrics/", "/metrics/../api/v1/keys", "//healthz", "/HEALTHZ", "/api/v1/keys"):
        with pytest.raises(ApiError) as caught:
            guard.check(path, {"host": "127.0.0.1"})
        assert caught.value.status == 401


def test_the_scheme_may_be_written_in_any_case():
    Guard("secret", "127.0.0.1").check("/api/v1/keys", {**HEADERS, "authorization": "bearer  secret "})


def test_the_token_of_alerts_opens_nothing_else():
    guard = Guard("secret", "127.0.0.1", "for alerts")
    alerts = {**HEADERS, "authorization": "Bearer for alerts"}
    guard.check("/api/v1/alerts", alerts)
    guard.check("/api/v1/alerts", HEADERS)
    for path in ("/api/v1/alerts/", "/api/v1/keys", "/api/v1/rollouts"):
        with pytest.raises(ApiError, match="the operator token is needed"):
            guard.check(path, alerts)
    for given in ("Bearer ", "Bearer", ""):     # without a token for alerts, an empty one opens nothing
        with pytest.raises(ApiError):
            Guard("secret", "127.0.0.1").check("/api/v1/alerts", {**HEADERS, "authorization": given})
