"""One error tree. The docstring of a class says when it is raised; its message says what to do.

UnderstudyError
├── ConfigError             a setting, file or flag is wrong
├── DatabaseError           the database cannot be reached, or its schema is older or newer than this code
├── NotFound                a version, route or key does not exist
├── Conflict                somebody or something else got there first
├── AdapterRejected         an adapter directory is not what the base and the engine can serve
├── ArtifactError           the artifact store failed: unreachable, full, or the bytes are not what was stored
├── EngineError             a vLLM did not do what was asked
│   ├── EngineUnavailable   it cannot be reached or is not ready
│   ├── EngineRefused       it answered, with a refusal (carries its status and message)
│   └── ProbeFailed         it loaded an adapter but does not reproduce the trainer's logprobs
├── GraderError             a grader is broken or has drifted: its scores cannot be used
│   └── GraderUnavailable   its service, judge or weights cannot be reached now
└── TrainingError           a training run, its data or its base is wrong

Command-line programs print `str(error)` on one line and exit with 1; the HTTP layers translate in one place.
"""

from __future__ import annotations


class UnderstudyError(Exception):
    """Base of all errors that a user can cause or must hear about."""


class ConfigError(UnderstudyError):
    """A setting, file or flag is wrong."""


class DatabaseError(UnderstudyError):
    """The database cannot be reached, or its schema does not fit this code."""


class NotFound(UnderstudyError):
    """A version, route or key does not exist."""


class Conflict(UnderstudyError):
    """The thing changed or exists already: look again, then repeat."""


class AdapterRejected(UnderstudyError):
    """An adapter directory is not what the base and the engine can serve."""


class ArtifactError(UnderstudyError):
    """The artifact store is unreachable or full, or its bytes are not what was stored."""


class EngineError(UnderstudyError):
    """A vLLM did not do what was asked."""


class EngineUnavailable(EngineError):
    """The engine cannot be reached or is not ready."""


class EngineRefused(EngineError):
    """The engine answered with a refusal; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ProbeFailed(EngineError):
    """The engine loaded an adapter but does not reproduce the trainer's logprobs."""


class GraderError(UnderstudyError):
    """A grader is broken or has drifted: its scores cannot be used."""


class GraderUnavailable(GraderError):
    """A grader's service, judge or weights cannot be reached now."""


class TrainingError(UnderstudyError):
    """A training run, its data or its base is wrong."""
