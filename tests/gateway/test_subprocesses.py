from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gateway.subprocesses import module_command, module_environment


@pytest.mark.parametrize("package", ["adapters", "gateway", "typer"])
def test_a_folder_of_the_same_name_is_not_mistaken_for_a_package(tmp_path: Path, package):
    """People start us in folders that have an `adapters/` of their own."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong one')")
    done = subprocess.run(
        module_command("gateway.cli", "--help"), check=False, cwd=tmp_path, env=module_environment(),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


def test_the_path_is_kept_and_not_repeated(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/one:/two")
    first = module_environment({"A": "1"})
    assert first["A"] == "1" and first["PYTHONPATH"].endswith(":/one:/two")
    monkeypatch.setenv("PYTHONPATH", first["PYTHONPATH"])
    assert module_environment()["PYTHONPATH"] == first["PYTHONPATH"]
