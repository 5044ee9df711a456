"""The labels that the data plane uses are those of the conventions."""

from gateway.data_plane.endpoints import ENDPOINTS
from monitors.conventions import Endpoint


def test_endpoints() -> None:
    assert {endpoint.name for endpoint in ENDPOINTS.values()} == {endpoint.value for endpoint in Endpoint}
