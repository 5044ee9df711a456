"""Promotion rules: what a version must show, compared with the one that serves, before users may meet it."""
