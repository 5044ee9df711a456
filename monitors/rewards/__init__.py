"""Rewards: one set of graders for training, evaluation and production. See types.py, settings.py and build.py."""
