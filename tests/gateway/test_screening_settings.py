import pytest
from pydantic import ValidationError

from gateway.screening_settings import ScreeningSettings


@pytest.mark.parametrize(("options", "url", "here"), [
    ({}, "", False),
    ({"model": "demo"}, "http://127.0.0.1:8084", False),
    ({"model": "demo", "mode": "audit"}, "http://127.0.0.1:8084", True),
    ({"model": "demo", "mode": "enforce", "host": "::", "port": 9}, "http://[::1]:9", True),
    ({"mode": "enforce", "url": "http://guard:1/"}, "http://guard:1", False),
    ({"mode": "enforce", "url": "http://guard:1/", "model": "demo"}, "http://guard:1", False),
])  # fmt: skip
def test_where_texts_go_and_who_runs_the_guard(options, url, here):
    settings = ScreeningSettings(**options)
    assert (settings.guard_url, settings.served_here) == (url, here)


def test_nothing_is_screened_and_nothing_missing_is_allowed_unless_asked_for():
    settings = ScreeningSettings()
    assert (settings.mode, settings.on_unavailable, settings.threshold) == ("off", "block", 0.5)


@pytest.mark.parametrize(("options", "said"), [
    ({"url": "guard:8084"}, "write http://host:port"), ({"url": "http://"}, "write http://host:port"),
    ({"timeout": "0s"}, "more than 0"), ({"mode": "audit"}, "needs model = a Llama Guard checkpoint"),
])  # fmt: skip
def test_what_cannot_work_is_said_at_once(options, said):
    with pytest.raises(ValidationError, match=said):
        ScreeningSettings(**options)
