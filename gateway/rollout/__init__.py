"""Progressive delivery: plans, decisions, their effects."""
