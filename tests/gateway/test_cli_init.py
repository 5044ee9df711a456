"""The file that `understudy init` writes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from adapters.errors import ConfigError
from gateway.cli_init import commented_defaults, default_slos, init_command
from gateway.config import Settings


def uncommented() -> str:
    text = commented_defaults()
    start = text.index("# A route is")
    example = text[start : text.index("\n[", start) + 1]
    return re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text.replace(example, "").replace(slo_example(), ""))


def slo_example() -> str:
    text = commented_defaults()
    start = text.index("# A service level objective")
    return text[start : text.index("\n[", start) + 1]


def test_uncommented_it_is_the_defaults() -> None:
    data = tomllib.loads(uncommented())
    assert Settings.model_validate(data) == Settings()
    assert set(data) == set(Settings.model_fields) - {"route", "slo"}
    sections = {name: type(getattr(Settings(), name)) for name in data if name != "data_dir"}
    assert all(set(data[name]) == set(section.model_fields) for name, section in sections.items())


def test_as_written_it_changes_nothing_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "understudy.toml"
    init_command(path)
    assert Settings.model_validate(tomllib.loads(path.read_text())) == Settings()
    with pytest.raises(ConfigError, match="exists already"):
        init_command(path)
    with pytest.raises(ConfigError, match="cannot be written"):
        init_command(tmp_path / "missing" / "x.toml")


def test_the_route_example_is_valid() -> None:
    example = commented_defaults().split("# A route is")[1].split("[rollout]")[0]
    text = "\n".join(line.removeprefix("# ") for line in example.splitlines()[1:])
    assert Settings.model_validate(tomllib.loads(text)).route[0].name == "support"


def test_the_slo_examples_are_valid() -> None:
    text = "\n".join(line.removeprefix("# ") for line in slo_example().splitlines()[2:])
    slos = Settings.model_validate(tomllib.loads(text)).slo
    assert {"reward", "satisfaction", "divergence"} <= {slo.sli for slo in slos}
    assert [slo.slo() for slo in slos] and tomllib.loads(default_slos())["slo"] == tomllib.loads(text)["slo"]
