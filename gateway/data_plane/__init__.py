"""The hot path: one request in, one relayed answer out."""
