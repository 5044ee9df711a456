"""Tests run what production runs: machine code, where the hot path is compiled; UNDERSTUDY_COMPILED=0 runs the Python.

The first plugin that conftest.py loads, because afterwards the other ones import what would have been replaced.
"""

from __future__ import annotations

from gateway.compiled import prefer

prefer()
