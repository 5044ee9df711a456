"""One running stack for the tests of a session: real vLLM, real workers, two marker adapters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.proof.rollouts import GRADER
from tests.support.once import once
from trainer.demo.stack import Stack, graded, make_adapters, running_stack

__all__ = ["Stack", "made", "marker_adapters", "stack"]


@pytest.fixture(scope="session")
def marker_adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters A and B, whose every answer begins with `A:` or `B:`. UNDERSTUDY_TEST_ADAPTERS names ready-made ones."""
    ready = os.environ.get("UNDERSTUDY_TEST_ADAPTERS")
    if ready:
        return make_adapters(Path(ready))
    with once(tmp_path_factory, "markers") as folder:
        return make_adapters(folder)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, marker_adapters: dict[str, Path]) -> dict[str, Path]:
    """One adapter of each kind on the demo base: "sft", "A:" and "B:"."""
    from trainer.demo.adapters import make_adapter

    with once(tmp_path_factory, "made") as folder:
        sft = folder / "sft"
        if not sft.exists():  # it appears whole
            make_adapter(sft, "sft")
    return {"sft": sft, "A:": marker_adapters["A"], "B:": marker_adapters["B"]}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, marker_adapters: dict[str, Path]) -> Iterator[Stack]:
    """`understudy up` with one engine; `support` serves A, `other` serves B; every answer is graded."""
    with running_stack(tmp_path_factory.mktemp("stack"), marker_adapters, more=graded(GRADER)) as running:
        yield running
