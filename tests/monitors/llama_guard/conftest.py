"""The demo's guard, as it is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

import monitors.llama_guard

FOLDER = Path(monitors.llama_guard.__file__).parent / "demo_guard"


@pytest.fixture(scope="session")
def guard_folder() -> Path:
    """Where the shipped checkpoint is."""
    return FOLDER


@pytest.fixture(scope="session")
def tokenizer(guard_folder):
    """Its tokenizer. Tests do not change it."""
    from monitors.llama_guard.scorer import load_tokenizer

    return load_tokenizer(str(guard_folder))
