"""What a Markdown page shows as code: fenced blocks and `inline code`, each with its line number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.tree import ROOT


@dataclass(frozen=True)
class Code:
    """A piece of code on a page. `language` is "" for inline code and for blocks that name none."""

    where: str
    text: str
    language: str = ""
    block: bool = False


def pages() -> list[Path]:
    """Everything at the top level and in docs/, except the history, which may name what is gone."""
    return [page for page in sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))) if page.name != "CHANGELOG.md"]


def code(page: Path) -> Iterator[Code]:
    """Every block (``` or indented by four) and every inline piece."""
    fence, lines, start = "", [], 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{page.relative_to(ROOT)}:{number}"
        if line.startswith("```"):
            if fence:
                yield Code(f"{page.relative_to(ROOT)}:{start}", "\n".join(lines), fence.strip("` "), block=True)
                fence, lines = "", []
            else:
                fence, start = line if line.strip("` ") else "``` text", number
        elif fence:
            lines.append(line)
        elif line.startswith("    "):
            yield Code(where, line.strip(), block=True)
        else:
            for found in re.finditer(r"(`+)(.+?)\1", line):
                yield Code(where, found[2].strip())
