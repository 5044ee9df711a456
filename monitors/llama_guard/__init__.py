"""Llama Guard: is this prompt, answer or tool result safe? The scorer (torch) is imported only by the guard service."""

from monitors.llama_guard.prompt import render
from monitors.llama_guard.taxonomy import INJECTION, LLAMA_GUARD_3, LLAMA_GUARD_3_1B
from monitors.llama_guard.verdict import Verdict, parse

__all__ = ["INJECTION", "LLAMA_GUARD_3", "LLAMA_GUARD_3_1B", "Verdict", "parse", "render"]
