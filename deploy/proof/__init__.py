"""Proof under load on a real vLLM: `python -m deploy.proof`. Its figures are kept in docs/proof.md."""
