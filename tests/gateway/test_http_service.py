"""What guard and rewards service share: their port."""

from __future__ import annotations

import socket

import pytest

from adapters.errors import ConfigError
from gateway.http_service import listen


def test_a_bound_socket_and_a_taken_port():
    first = listen("screening", "127.0.0.1", 0, "")
    port = first.getsockname()[1]
    first.listen()
    try:
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*set screening\.host and screening\.port"):
            listen("screening", "127.0.0.1", port, "")
    finally:
        first.close()


@pytest.mark.parametrize(("host", "key", "message"), [
    ("0.0.0.0", "", "others can reach: set rewards.api_key"), ("192.0.2.1", "key", "cannot listen on 192.0.2.1:0"),
    ("no such host", "key", "cannot listen on no such host:0"),
])  # fmt: skip
def test_where_it_may_not_listen(host, key, message):
    with pytest.raises(ConfigError, match=message):
        listen("rewards", host, 0, key)


def test_with_a_key_others_may_reach_it():
    opened = listen("rewards", "0.0.0.0", 0, "key")
    assert opened.family == socket.AF_INET
    opened.close()
