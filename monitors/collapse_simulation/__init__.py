"""How soon the collapse detector finds what it should, and how often it cries wolf.

    python -m monitors.collapse_simulation

Everything is decided by the code that watches production (monitors.collapse).
"""
