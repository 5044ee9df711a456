"""The gateway's policy around the guard service: what is judged, what waits for a verdict, what is refused.

    client ⇄ Gate ⇄ Relay ⇄ engine        Gate → GuardClient → `understudy guard`

See docs/screening.md. Nothing here decides what is unsafe: the guard gives scores, policy.py applies thresholds.
"""
