"""Hazard categories: the published Llama Guard taxonomies, and our own label for instructions found in data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from adapters.errors import ConfigError

CODE = re.compile(r"S[1-9][0-9]?")
INJECTION = "injection"

LLAMA_GUARD_3 = {
    "S1": "Violent Crimes",
    "S2": "Non-Violent Crimes",
    "S3": "Sex-Related Crimes",
    "S4": "Child Sexual Exploitation",
    "S5": "Defamation",
    "S6": "Specialized Advice",
    "S7": "Privacy",
    "S8": "Intellectual Property",
    "S9": "Indiscriminate Weapons",
    "S10": "Hate",
    "S11": "Suicide & Self-Harm",
    "S12": "Sexual Content",
    "S13": "Elections",
    "S14": "Code Interpreter Abuse",
}
"""S1..S14 of Llama Guard 3 8B and 4 12B (their model cards; after the MLCommons hazards taxonomy, arXiv:2404.12241)."""

LLAMA_GUARD_3_1B = {code: name for code, name in LLAMA_GUARD_3.items() if code != "S14"}
"""S1..S13: the 1B model has no Code Interpreter Abuse."""

INJECTION_CATEGORIES = {"S1": "Prompt Injection"}
"""What tool and document turns are judged by. Any verdict of unsafe there is reported as `INJECTION`."""


def by_number(codes: Iterable[str]) -> tuple[str, ...]:
    """Distinct labels in the taxonomy's order: S2 before S10, other labels last."""
    return tuple(sorted(set(codes), key=lambda code: (not CODE.fullmatch(code), int(code[1:]) if code[1:].isdecimal()
                                                      else 0, code)))  # fmt: skip


def check_categories(categories: Mapping[str, str]) -> dict[str, str]:
    """Custom categories, code → name, as they may stand in a prompt. Raises ConfigError for what the grammar lacks."""
    for code, name in categories.items():
        if not CODE.fullmatch(code):
            raise ConfigError(f"category {code!r}: codes are S1 to S99, as Llama Guard writes them")
        if not name.strip() or any(ord(char) < ord(" ") for char in name) or "<" in name:
            raise ConfigError(f"category {code}: {name!r} is not a name: one line of text without '<' is")
    return {code: categories[code] for code in by_number(categories)}
