import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.types import ApiKey
from gateway.data_plane.auth import Authenticator, Principal, check_route, is_operator, may_use, owner_tag
from gateway.errors import ApiError


def key(name: str, *scopes: str, routes: tuple[str, ...] = (), revoked: bool = False, rpm: int = 0) -> ApiKey:
    digest = hashlib.sha256(f"us-{name}".encode()).digest()
    return ApiKey(
        id=f"key-{name}",
        owner=f"owner-{name}",
        secret_hash=digest,
        scopes=frozenset(scopes or ("inference",)),
        routes=frozenset(routes),
        requests_per_minute=rpm,
        revoked_at=1.0 if revoked else None,
    )


KEYS = [key("a", rpm=5), key("b", routes=("support",)), key("op", "inference", "operator"), key("gone", revoked=True)]
OPEN = Authenticator(KEYS, required=False, loopback_operator=True)
CLOSED = Authenticator(KEYS, required=True, loopback_operator=True)


@pytest.mark.parametrize("authenticator", [OPEN, CLOSED])
@pytest.mark.parametrize(
    ("authorization", "x_api_key"),
    [
        (b"Bearer us-a", None),
        (b"bearer us-a", None),
        (b"BEARER   us-a  ", None),
        (None, b"us-a"),
        (None, b" us-a "),
        (b"Bearer us-a", b"us-op"),  # Bearer first
        (b"Bearer ", b"us-a"),
        (b"Basic dXM6eA==", b"us-a"),
    ],
)
def test_a_key_is_found(authenticator: Authenticator, authorization: bytes | None, x_api_key: bytes | None) -> None:
    principal = authenticator.authenticate(authorization, x_api_key)
    assert (principal.key_id, principal.owner, principal.owner_tag) == ("key-a", "owner-a", owner_tag("owner-a"))
    assert principal.limited


@pytest.mark.parametrize("authorization", [b"Bearer us-unknown", b"Bearer us-gone"])
@pytest.mark.parametrize("authenticator", [OPEN, CLOSED])
def test_our_own_keys_that_do_not_count_are_refused_everywhere(
    authenticator: Authenticator, authorization: bytes
) -> None:
    with pytest.raises(ApiError, match="unknown or revoked") as caught:
        authenticator.authenticate(authorization)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert dict(caught.value.headers) == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("authorization", [None, b"", b"Bearer", b"Bearer ", b"Basic dXM6eA==", b"us-a", b" "])
def test_without_a_key(authorization: bytes | None) -> None:
    with pytest.raises(ApiError, match="send it as `Authorization: Bearer KEY`") as caught:
        CLOSED.authenticate(authorization)
    assert caught.value.status == 401
    anonymous = OPEN.authenticate(authorization)
    assert (anonymous.owner, anonymous.key_id, anonymous.limited) == ("", "", False)


FOREIGN = st.none() | st.binary(max_size=50).filter(lambda header: b"us-" not in header)


@given(FOREIGN, FOREIGN)
def test_no_header_opens_a_closed_door(authorization: bytes | None, x_api_key: bytes | None) -> None:
    with pytest.raises(ApiError):
        CLOSED.authenticate(authorization, x_api_key)
    assert OPEN.authenticate(authorization, x_api_key).key_id == ""


def test_made_up_keys_are_anonymous_where_none_is_needed() -> None:
    assert OPEN.authenticate(b"Bearer EMPTY").owner == ""
    with pytest.raises(ApiError, match="unknown or revoked"):
        CLOSED.authenticate(b"Bearer EMPTY")


def test_routes_and_scopes() -> None:
    everything, one = OPEN.authenticate(b"Bearer us-a"), OPEN.authenticate(b"Bearer us-b")
    for principal, route, allowed in ((everything, "support", True), (one, "support", True), (one, "sales", False)):
        assert may_use(principal, route) is allowed
        if allowed:
            check_route(principal, route)
        else:
            with pytest.raises(ApiError, match="may not use this model") as caught:
                check_route(principal, route)
            assert caught.value.status == 403
    only_operator = Authenticator([key("x", "operator")], True, False).authenticate(b"Bearer us-x")
    assert is_operator(only_operator)
    assert not may_use(only_operator, "support")
    with pytest.raises(ApiError, match="not for inference"):
        check_route(only_operator, "support")


def test_operators() -> None:
    def anonymous(required: bool, loopback: bool) -> Principal:
        return Authenticator([], required, loopback)._anonymous

    assert is_operator(anonymous(False, True))
    assert not is_operator(anonymous(False, False))
    assert not is_operator(anonymous(True, True))
    assert is_operator(CLOSED.authenticate(b"Bearer us-op"))
    assert not is_operator(OPEN.authenticate(b"Bearer us-a"))  # a key says what one may, on loopback too


def test_owners_differ_by_tag() -> None:
    tags = {owner_tag(owner) for owner in ("", "a", "b", "owner-a", "\ud800", "ö")}
    assert len(tags) == 6
    assert {len(tag) for tag in tags} == {4}
