"""The labels that the data plane uses are those of the conventions."""

from gateway.data_plane.endpoints import ENDPOINTS
from gateway.rollout import arms
from monitors.conventions import ArmName, Endpoint


def test_endpoints() -> None:
    assert {endpoint.name for endpoint in ENDPOINTS.values()} == {endpoint.value for endpoint in Endpoint}


def test_arms_of_rollouts() -> None:
    used = {arms.STABLE, arms.CANDIDATE, arms.HOLDOUT, arms.SHADOW, arms.TESTER}
    assert used <= {member.value for member in ArmName}
