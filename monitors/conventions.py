"""Every metric and label name, once: name, kind, help, labels, buckets. docs/metrics.md is generated from this file.

Regenerate the table with `python -m monitors.conventions > docs/metrics.md`; a test compares them.
Label values come only from configuration, the registry and the enums of monitors.labels, never from a client's string.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monitors.labels import ArmName, Endpoint, EventKind, FeedbackKind, LimitReason, Outcome, ShadowOutcome, TokenType

__all__ = [
    "METRICS", "PREFIX", "ArmName", "Endpoint", "EventKind", "FeedbackKind", "LimitReason", "Metric", "Outcome",
    "ShadowOutcome", "TokenType", "render_markdown",
]  # fmt: skip

PREFIX = "understudy_"
PLANNED = "planned"
RETIRE_AFTER = 6 * 3600.0          # seconds a version's series stay after it left the routes


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `name` is without the prefix; `merge` says how the processes of one host become one number."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()                      # upper bounds, ascending, without +Inf; histograms only
    since: str = PLANNED                                 # first release that exports it
    merge: Literal["sum", "max", "age"] = "sum"          # gauges: age = seconds since the oldest process's time stamp

    @property
    def full_name(self) -> str:
        """The name as Prometheus sees it."""
        return PREFIX + self.name

    @property
    def width(self) -> int:
        """Float64 slots one series takes: a histogram keeps its buckets, +Inf and the sum."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1


# Bucket bounds: about 2-2.5 apart, densest where objectives usually lie.
DURATION = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FIRST_TOKEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
OVERHEAD = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
LOADING = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKENS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 32768.0)
SCORE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHARE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0)
BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
COMPRESSION = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0)

_ARM = ("route", "version", "arm")
_CALL = ("route", "version", "arm", "endpoint")
_VERSION = ("route", "version")
_RUN = ("run", "algorithm")

# Traffic
REQUESTS = Metric("requests_total", "counter", "Requests by how they ended.", (*_CALL, "code", "outcome"), since="0.1")
DURATIONS = Metric(
    "request_duration_seconds", "histogram",
    "From the request's last byte in to the answer's last byte out.", _CALL, DURATION, "0.1"
)
TTFT = Metric(
    "time_to_first_token_seconds", "histogram",
    "Until the first content delta; streams only.", _CALL, FIRST_TOKEN, "0.1"
)
TPOT = Metric(
    "time_per_output_token_seconds", "histogram",
    "Between output tokens after the first; streams only.", _CALL, PER_TOKEN, "0.1"
)
GATEWAY_OVERHEAD = Metric(
    "gateway_overhead_seconds", "histogram",
    "Time the gateway itself took before the engine was asked.", _CALL, OVERHEAD, "0.1"
)
TOKENS_TOTAL = Metric("tokens_total", "counter", "Tokens as the engine counted them.", (*_VERSION, "type"), since="0.1")
IN_FLIGHT = Metric("requests_in_flight", "gauge", "Requests being answered now.", ("route",), since="0.1")
FAILOVERS = Metric(
    "failovers_total", "counter",
    "Requests sent to another engine because this one failed before its first byte.", ("engine",), since="0.1"
)
RATE_LIMITED = Metric("rate_limited_total", "counter", "Requests refused with 429.", ("reason",), since="0.1")
WITHOUT_UNIT = Metric(
    "requests_without_unit_total", "counter", "Requests that named no unit, so are not sticky.", ("route",), since="0.1"
)
# Quality
REWARD_SCORE = Metric(
    "reward_score", "histogram", "Graders' scores, normalised to 0..1.", (*_ARM, "grader"), SCORE, "0.2"
)
SATISFACTION = Metric("satisfaction_score", "histogram", "Scores of feedback, 0..1.", _ARM, SCORE, "0.1")
RESPONSE_TOKENS = Metric("response_tokens", "histogram", "Output tokens of an answer.", _VERSION, TOKENS, "0.1")
DUPLICATE_NGRAMS = Metric(
    "response_duplicate_ngram_ratio", "histogram",
    "Share of an answer's 4-grams of words that repeat earlier ones; a sample.", _VERSION, SHARE, "0.2"
)
COMPRESSION_RATIO = Metric(
    "response_compression_ratio", "histogram",
    "Bytes of an answer's text per byte of its zlib form; a sample.", _VERSION, COMPRESSION, "0.2"
)
FEEDBACK = Metric("feedback_total", "counter", "Feedback accepted.", (*_ARM, "kind"), since="0.1")
ALIGNMENT_TAX = Metric(
    "alignment_tax_ratio", "gauge",
    "Mean of P(satisfied given the reward) minus satisfaction, over the last 300 feedbacks: 0 where the reward means "
    "what it meant on the version before.", _VERSION, since="0.2", merge="max"
)
COLLAPSE_EVALUE = Metric(
    "collapse_log_evalue", "gauge",
    "Evidence that the reward no longer predicts satisfaction, natural logarithm; the threshold is 9.2 by default.",
    _VERSION, since="0.2", merge="max"
)
# Screening
SCREENING = Metric(
    "screening_total", "counter", "Prompts and answers by verdict; category: by which an unsafe one was decided.",
    (*_VERSION, "stage", "verdict", "category"), since="0.2"
)
SCREENING_DURATION = Metric(
    "screening_duration_seconds", "histogram", "Until a verdict, or the end of the wait.", ("stage",), LOADING, "0.2"
)
# Rollouts
ROLLOUT_WEIGHT = Metric(
    "rollout_weight_ratio", "gauge",
    "Share of the route's traffic the version gets.", _VERSION, since="0.2", merge="max"
)
ROLLOUT_PHASE = Metric(
    "rollout_phase", "gauge", "1 for the phase the rollout is in.", (*_VERSION, "phase"), since="0.2", merge="max"
)
ROLLOUT_EVALUE = Metric(
    "rollout_log_evalue", "gauge",
    "Evidence that the candidate is worse, natural logarithm.", (*_VERSION, "metric"), since="0.2", merge="max"
)
ROLLOUT_EFFECT = Metric(
    "rollout_effect", "gauge",
    "Candidate minus stable: estimate and interval.", (*_VERSION, "metric", "bound"), since="0.2", merge="max"
)
RATIO_MISMATCH = Metric(
    "rollout_ratio_mismatch_log_evalue", "gauge",
    "Evidence that traffic is not split as configured.", _VERSION, since="0.2", merge="max"
)
ROLLBACKS = Metric("rollbacks_total", "counter", "Versions taken back, by cause.", ("route", "reason"), since="0.2")
SHADOW = Metric("shadow_total", "counter", "Mirrored requests by how they ended.", ("route", "outcome"), since="0.2")
BREAKER = Metric(
    "breaker_trips_total", "counter",
    "Times a worker by itself served a candidate's units from stable.", _VERSION, since="0.2"
)
EVENTS_DROPPED = Metric(
    "events_dropped_total", "counter",
    "Records lost: the database or the scoring service was away too long, or a queue was full.", ("kind",), since="0.1"
)
# The scoring service (`understudy reward`), on its own port
SCORING_SAMPLES = Metric(
    "scoring_samples_total", "counter", "Scores that went out, by outcome: scored, missing or failed.",
    ("grader", "outcome"), since="0.2"
)
SCORING_DURATION = Metric(
    "scoring_duration_seconds", "histogram", "Time one batch of a grader took.", ("grader",), DURATION, "0.2"
)
SCORING_WAITING = Metric("scoring_waiting_samples", "gauge", "Samples that wait or are being scored.", since="0.2")
SCORING_REFUSED = Metric("scoring_refused_total", "counter", "Requests refused because too much waits.", since="0.2")
# The guard service (`understudy guard`), on its own port
GUARD_VERDICTS = Metric(
    "guard_verdicts_total", "counter", "Texts judged: safe, unsafe or unavailable.", ("role", "verdict"), since="0.2"
)
GUARD_DURATION = Metric(
    "guard_duration_seconds", "histogram",
    "One request for verdicts, from its last byte in to its results.", (), LOADING, "0.2"
)
GUARD_PASS_DURATION = Metric(
    "guard_pass_duration_seconds", "histogram",
    "One forward pass over a batch, categories included.", (), LOADING, "0.2"
)
GUARD_BATCH = Metric("guard_batch_prompts", "histogram", "Prompts in one pass.", (), BATCH, "0.2")
GUARD_WAITING = Metric("guard_waiting_prompts", "gauge", "Prompts that wait for a pass.", since="0.2")
GUARD_REFUSED = Metric(
    "guard_refused_total", "counter", "Requests refused: too much waits, or the guard is not ready.", since="0.2"
)
# Training
TRAINING_REWARD = Metric(
    "training_reward", "gauge", "Mean reward of the last step.", _RUN, since="0.2", merge="max"
)
TRAINING_GOLD = Metric(
    "training_gold", "gauge",
    "Mean gold score on held-out prompts at the last look; never trained on.", _RUN, since="0.2", merge="max"
)
TRAINING_KL = Metric(
    "training_kl", "gauge",
    "KL divergence from the reference on held-out prompts at the last look, nats per token.",
    _RUN, since="0.2", merge="max"
)
TRAINING_ENTROPY = Metric(
    "training_entropy", "gauge", "Entropy of the policy, nats per token.", _RUN, since="0.2", merge="max"
)
TRAINING_TOKENS = Metric(
    "training_completion_tokens", "gauge", "Mean length of completions.", _RUN, since="0.2", merge="max"
)
TRAINING_ZERO_VARIANCE = Metric(
    "training_zero_variance_ratio", "gauge",
    "Share of groups whose raw rewards are all equal.", _RUN, since="0.2", merge="max"
)
# Plant
ENGINE_UP = Metric("engine_up", "gauge", "1 if the engine answers.", ("engine",), since="0.1", merge="max")
ADAPTER_LOADED = Metric(
    "adapter_loaded", "gauge",
    "1 if the engine holds the version, ready.", ("engine", "version"), since="0.1", merge="max"
)
ADAPTER_LOAD_DURATION = Metric(
    "adapter_load_duration_seconds", "histogram",
    "Load, confirm and probe of one version on one engine.", (), LOADING, "0.1"
)
SNAPSHOT_AGE = Metric(
    "route_snapshot_age_seconds", "gauge",
    "Since the slowest worker last confirmed its routes.", (), since="0.1", merge="age"
)
CONTROLLER_LEADER = Metric("controller_leader", "gauge", "1 if this controller leads.", (), since="0.1", merge="max")
BUILD_INFO = Metric(
    "build_info", "gauge", "Always 1; the label is the release.", ("version",), since="0.1", merge="max"
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def render_markdown() -> str:
    """docs/metrics.md, generated."""
    lines = [
        "# Metrics",
        "",
        "Generated by `python -m monitors.conventions`. Names carry the prefix `" + PREFIX + "`; units are base units",
        "(seconds, ratios 0..1). Label values come from configuration and the registry, never from clients. The series",
        "of a version that left the routes are dropped six hours later. *planned* = named, not exported yet.",
        "",
        "| name | kind | labels | buckets | since | meaning |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for metric in METRICS:
        labels = ", ".join(metric.labels) or "none"
        buckets = " ".join(f"{bound:g}" for bound in metric.buckets) or "none"
        cells = (f"`{metric.full_name}`", metric.kind, labels, buckets, metric.since, metric.help)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(render_markdown())
