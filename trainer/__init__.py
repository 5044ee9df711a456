"""Adapters from data."""
