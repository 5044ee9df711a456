"""Tests, intervals and scores: pure functions and small classes on numpy and scipy. Every one cites its source.

What cannot be computed raises InsufficientData or ValueError: there is no p = 1 for "I do not know".
"""
