"""What a Llama Guard writes, read strictly: `safe`, or `unsafe` and a second line such as `S1,S9`; nothing else."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_UNSAFE = re.compile(r"unsafe\n(S[1-9][0-9]?(?: *, *S[1-9][0-9]?)*)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Safe (neither flag), unsafe with its categories, or unavailable. Unavailable is never safe."""

    unsafe: bool
    categories: tuple[str, ...] = ()
    unavailable: bool = False

    @property
    def safe(self) -> bool:
        """True only for a verdict that was read, and said safe."""
        return not (self.unsafe or self.unavailable)


def parse(text: str, known: Collection[str] | None = None) -> Verdict:
    """Read a guard's whole output. White space around it and spaces around commas aside, only the exact grammar counts.

    `known`: the codes that the prompt listed; naming another one makes the output unavailable. Source: Llama Guard 3
    model card: the first line must read 'safe' or 'unsafe'; if unsafe, a second line must list the violated categories.
    """
    text = text.strip()
    if text == "safe":
        return Verdict(False)
    if found := _UNSAFE.fullmatch(text):
        codes = tuple(dict.fromkeys(code.strip(" ") for code in found[1].split(",")))
        if known is None or all(code in known for code in codes):
            return Verdict(True, codes)
    return Verdict(False, unavailable=True)
