"""Runs a suite against a version and says what it found: answers, grades, intervals, comparisons, failures."""
