"""Everything said to a vLLM: start it, load adapters into it, prove what it loaded."""
