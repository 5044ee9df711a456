"""One gateway for all tests of a file that say nothing else; after each it must be unharmed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.raw_http import unharmed
from tests.support.serving import Gateway, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with serving(tmp_path_factory.mktemp("serve")) as gateway:
        gateway.publish({})
        yield gateway.start()


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    with unharmed(running):
        yield running
