"""The label values that are ours, as enums: how requests end, what records are, which part of the traffic it was."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """How a request ended, whatever its status code."""

    OK = "ok"
    ERROR = "error"
    TRUNCATED = "truncated"        # the stream broke after its first byte
    CANCELLED = "cancelled"        # the client went away
    BLOCKED = "blocked"            # screening refused it


class Endpoint(StrEnum):
    """The endpoints that generate; the value is the `endpoint` label."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"


class ArmName(StrEnum):
    """The `arm` label: which part of a route's traffic a request belonged to."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    CONTROL = "control"
    TREATMENT = "treatment"
    HOLDOUT = "holdout"            # of a rollout: always stable, beyond the candidate's reach
    TESTER = "tester"              # units and requests that were put on an arm by hand: never evidence
    SHADOW = "shadow"              # the candidate's answers that nobody sees
    PINNED = "pinned"              # asked for by its full version name
    BASE = "base"                  # the base, asked for by its served name
    NONE = ""                      # refused before it was routed


class TokenType(StrEnum):
    """The `type` label of tokens_total."""

    INPUT = "input"
    OUTPUT = "output"


class FeedbackKind(StrEnum):
    """The `kind` of a feedback and of feedback_total."""

    THUMB = "thumb"
    RATING = "rating"
    REGENERATE = "regenerate"
    EDIT = "edit"
    ABANDON = "abandon"
    TASK = "task"


class LimitReason(StrEnum):
    """The `reason` label of rate_limited_total."""

    REQUESTS = "requests"          # requests per minute
    TOKENS = "tokens"              # tokens per minute


class EventKind(StrEnum):
    """The `kind` label of events_dropped_total."""

    RESPONSE = "response"
    FEEDBACK = "feedback"
    SCORE = "score"                # of an answer: a grader's, or a text statistic
    PAIR = "pair"                  # of scores of a stable and a shadow answer
    ROLLOUT = "rollout"            # what a worker did in a rollout by itself: the circuit breaker
    TEXT = "text"                  # sampled answers that were never looked at: the queue was full
    GRADING = "grading"            # sampled answers that the scoring service did not take


class ScreeningStage(StrEnum):
    """The `stage` label: what was judged."""

    PROMPT = "prompt"
    PARTIAL = "partial"            # an answer that is still being written; not counted in screening_total
    RESPONSE = "response"          # a whole answer, or the part at which it was blocked


class Verdict(StrEnum):
    """The `verdict` label of screening_total."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    UNAVAILABLE = "unavailable"    # nothing is known, which is never safe


class ShadowOutcome(StrEnum):
    """The `outcome` label of shadow_total."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"
    DROPPED = "dropped"            # the queue was full
    SHED = "shed"                  # too many requests in flight: users go first
