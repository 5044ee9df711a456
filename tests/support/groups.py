"""Which tests run in the same process when there are several (pytest-xdist): those of a file, and all with an engine.

A vLLM takes half a minute to start and one core: the files whose tests use one share it. The demo has its own, and takes
as long as all others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ENGINE = "pytest.mark.engine"
ALONE = "tests/trainer/demo/test_story.py"


def scope_of(nodeid: str, root: Path) -> str:
    """The group of a test: its file, or "engine" for all files that use one."""
    path = nodeid.partition("::")[0]
    file = root / path
    return "engine" if path != ALONE and file.is_file() and ENGINE in file.read_text(encoding="utf-8") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands out whole groups."""
    from xdist.scheduler import LoadScopeScheduling

    scopes: dict[str, str] = {}

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            if path not in scopes:
                scopes[path] = scope_of(nodeid, config.rootpath)
            return scopes[path]

    return Groups(config, log)
