"""`understudy reward`: the graders of `[rewards]` behind one HTTP endpoint. Start with service.py."""
