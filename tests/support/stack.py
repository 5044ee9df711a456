"""One running stack for the tests of a session: real vLLM, real workers, two marker adapters."""

from __future__ import annotations

from trainer.demo.stack import Stack, make_adapters, running_stack

__all__ = ["Stack", "make_adapters", "running_stack"]
