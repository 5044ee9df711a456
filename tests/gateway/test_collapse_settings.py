import pytest

from adapters.errors import ConfigError
from adapters.settings import load
from gateway.collapse_settings import CollapseSettings
from gateway.config import Settings


def test_the_defaults_are_those_of_the_specification():
    settings = CollapseSettings()
    assert (settings.enabled, settings.epsilon, settings.threshold, settings.baseline) == (True, 0.03, 10_000.0, 2000)


@pytest.mark.parametrize(("line", "problem"), [
    ("epsilon = 0", "epsilon"), ("threshold = 5", "threshold"), ("baseline = 10", "baseline"), ("kinds = []", "kinds"),
    ('kinds = ["thumbs"]', "kinds"), ('wait = "soon"', "wait"), ("graders = 1", "grader"),
])  # fmt: skip
def test_nonsense_is_refused_by_name(tmp_path, line, problem):
    (path := tmp_path / "understudy.toml").write_text(f"[collapse]\n{line}\n")
    with pytest.raises(ConfigError, match=problem):
        load(Settings, path, {})
