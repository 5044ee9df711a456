"""Seeded fuzzers for the parsers of both sides: `python -m tests.fuzz`."""
