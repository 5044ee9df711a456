"""Fenced blocks, also in text made to be slow to read."""

from __future__ import annotations

import pytest

from monitors.rewards.fences import fenced_blocks


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("", []),
        ("```\na\n```", ["a\n"]),
        ("x\n```JSON \na\n``` \ny\n```json\nb\nc\n```\n", ["a\n", "b\nc\n"]),
        ("```python\na\n```\n```\nb\n```", ["b\n"]),
        ("```json\n```", [""]),
        ("```json\nopen", []),
        ("text ```json\na\n```", []),          # a fence begins its line; what follows is an open block
        ("```json\n```json\n```", ["```json\n"]),
        ("```json\r\na\r\n```", ["a\r\n"]),
    ],
)  # fmt: skip
def test_blocks(text, blocks):
    assert fenced_blocks(text, ("", "json")) == blocks


@pytest.mark.timeout(120)  # a quadratic search would take hours
@pytest.mark.parametrize("piece", ["```json\n", "```\n", "```", "`", "\n"])
def test_hostile_repetition_is_linear(piece):
    assert len(fenced_blocks(piece * 300_000, ("", "json"))) in (0, 150_000)
