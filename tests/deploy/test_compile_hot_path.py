"""What `make install` says when the hot path cannot be compiled: the gateway runs all the same."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploy import compile_hot_path
from gateway import compiled


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is compiled yet."""
    home = tmp_path / "understudy_compiled" / "digest"
    monkeypatch.setattr(compiled, "home", lambda: home)
    return home


def test_without_a_compiler_one_line_says_what_to_do(elsewhere, monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    assert compile_hot_path.main() == 0
    said = capsys.readouterr().out
    assert said == (
        "note: the hot path runs interpreted, at twice the CPU a request: "
        "there is no C compiler: install gcc or clang; then `make install` again\n"
    )
    assert not elsewhere.exists()


def test_a_place_that_cannot_be_written_is_said(elsewhere, capsys):
    elsewhere.parent.write_text("a file where the folder belongs")
    assert compile_hot_path.main() == 0
    assert f"{elsewhere.parent} cannot be written" in capsys.readouterr().out


def test_what_is_there_is_not_made_again(elsewhere, monkeypatch, capsys):
    elsewhere.mkdir(parents=True)
    monkeypatch.setattr(compile_hot_path, "_build", lambda _: pytest.fail("there is nothing to do"))
    assert compile_hot_path.main() == 0
    assert capsys.readouterr().out == ""


def test_it_appears_whole_and_older_ones_go(elsewhere, monkeypatch):
    older = elsewhere.with_name("older")
    older.mkdir(parents=True)

    def build(scratch: Path) -> None:
        (scratch / "lib").mkdir()
        (scratch / "lib" / "code.so").write_bytes(b"x")
        assert not elsewhere.exists()

    monkeypatch.setattr(compile_hot_path, "_build", build)
    assert compile_hot_path.compile_unit() == elsewhere
    assert [path.name for path in elsewhere.iterdir()] == ["code.so"] and not older.exists()
    assert {path.name for path in elsewhere.parent.iterdir()} == {"digest", compile_hot_path.LOG}


def test_a_build_that_fails_leaves_nothing_behind(elsewhere, monkeypatch, capsys):
    def build(scratch: Path) -> None:
        raise compile_hot_path.CouldNotCompile("the C compiler failed (x): are Python's headers there (python3-dev)?")

    monkeypatch.setattr(compile_hot_path, "_build", build)
    assert compile_hot_path.main() == 0
    assert "python3-dev" in capsys.readouterr().out
    assert [path.name for path in elsewhere.parent.iterdir()] == [compile_hot_path.LOG]


@pytest.mark.slow
def test_a_compiler_that_fails_is_one_line(elsewhere, monkeypatch, capfd):
    """As one does that has no Python.h. mypyc itself runs."""
    monkeypatch.setenv("CC", "false")
    monkeypatch.setattr(compiled, "UNIT", ("gateway.data_plane.framing",))  # one file is enough to fail
    assert compile_hot_path.main() == 0
    out, err = capfd.readouterr()
    first, said = out.splitlines()
    assert first == "note: compiling the hot path, about half a minute" and err == ""
    assert said.startswith("note: the hot path runs interpreted, at twice the CPU a request: the C compiler failed (")
    assert said.endswith("(python3-dev)?; then `make install` again") and not elsewhere.exists()


def test_what_compilers_print_is_in_a_log_and_not_on_the_terminal(elsewhere, monkeypatch, capfd):
    monkeypatch.setattr(compile_hot_path, "_build", lambda _: os.system("echo a page for each module"))
    compile_hot_path.main()
    assert "page" not in "".join(capfd.readouterr())
    assert (elsewhere.parent / compile_hot_path.LOG).read_text() == "a page for each module\n"


def test_installing_compiles(tmp_path):
    text = (Path(compile_hot_path.__file__).parent / "install.py").read_text()
    assert "compile_hot_path.py" in text
    assert subprocess.run(["make", "-n", "bench"], check=True, capture_output=True, text=True,
                          cwd=Path(compile_hot_path.__file__).parents[1]).stdout.count("compile_hot_path.py") == 1  # fmt: skip
