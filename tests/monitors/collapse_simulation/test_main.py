from __future__ import annotations

import json

import pytest

from monitors.collapse_simulation.__main__ import main


def test_it_prints_a_table_and_json_with_the_same_numbers(capsys, tmp_path):
    wanted = ["--runs", "2", "--scenario", "rising", "--seed", "3"]
    assert main([*wanted, "--plot", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert main([*wanted, "--json", "--processes", "2"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["scenario"] == "rising" and row["runs"] == 2
    assert f"{row['collapse_delay'][0]:.0f} / {row['collapse_delay'][1]:.0f}" in shown
    assert (tmp_path / "collapse-delays.svg").exists() and (tmp_path / "collapse-trace.svg").exists()


@pytest.mark.parametrize("wrong", [["--runs", "0"], ["--scenario", "nothing"], ["--processes", "x"]])
def test_wrong_usage(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2 and "usage:" in capsys.readouterr().err
