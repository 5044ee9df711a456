"""Are the answers good, and does the reward still say so: grading, satisfaction, texts, collapse."""

from __future__ import annotations

from deploy.dashboards.board import CHOSEN, Board, Panel, Query, Row, mean, of, quantiles, ratio, total
from deploy.dashboards.common import MARKS, ROUTE, VERSION, WINDOW
from monitors import conventions as c

ALARM = 9.2103               # ln(10⁴): the collapse detector's threshold, one false alarm in 10⁴ feedbacks
ANSWERED = f'{CHOSEN}, outcome="ok"'


def board() -> Board:
    """The dashboard."""
    return Board(
        "understudy-quality",
        "Understudy / Quality and collapse",
        "Reward against satisfaction, the collapse detector, what answers are like, and the graders.",
        (collapse(), scores(), texts(), graders()),
        (ROUTE, VERSION, WINDOW),
        MARKS,
    )


def collapse() -> Row:
    """The reward looks fine while users leave."""
    reward, satisfied = mean(c.REWARD_SCORE, "version"), mean(c.SATISFACTION, "version")
    tax = f"max by (route, version) ({of(c.ALIGNMENT_TAX, CHOSEN)})"
    evidence = f"max by (route, version) ({of(c.COLLAPSE_EVALUE, CHOSEN)})"
    return Row("Collapse", (
        Panel("Reward against satisfaction", "Means of graders' scores and of feedback. Lines that part are what this "
              "dashboard is for.", (Query(reward, "reward {{version}}"), Query(satisfied, "satisfaction {{version}}")),
              minimum=0, maximum=1),
        Panel("Alignment tax", "Satisfaction that the reward promises and users do not report: 0 at the baseline.",
              (Query(tax, "{{route}} {{version}}"),), "percentunit",
              thresholds=((None, "green"), (0.03, "orange"), (0.1, "red"))),
        Panel("Evidence of collapse", "Logarithm of the detector's value; the alarm is at ln 10,000.",
              (Query(evidence, "{{route}} {{version}}"),), thresholds=((None, "green"), (ALARM, "red"))),
    ))  # fmt: skip


def scores() -> Row:
    """What graders and users say."""
    by_grader = mean(c.REWARD_SCORE, "version, grader")
    rated = ratio(total(c.FEEDBACK, "version", window="$window"), total(c.REQUESTS, "version", ANSWERED, "$window"))
    spread = f"sum by (le) (increase({of(c.REWARD_SCORE, CHOSEN, '_bucket')}[$window]))"
    return Row("Scores", (
        Panel("Reward by grader", "Mean of a sample of answers.", (Query(by_grader, "{{version}} {{grader}}"),),
              minimum=0, maximum=1),
        Panel("Distribution of rewards", "Scores over time, all graders chosen together.", (Query(spread, "{{le}}"),),
              kind="heatmap"),
        Panel("Satisfaction by version", "Mean of feedback scores.",
              (Query(mean(c.SATISFACTION, "route, version"), "{{route}} {{version}}"),), "percentunit", minimum=0,
              maximum=1),
        Panel("Feedback by kind", "Per second: regenerations, edits and abandonment beside thumbs, which can be gamed.",
              (Query(total(c.FEEDBACK, "kind", window="$window"), "{{kind}}"),), width=12, minimum=0),
        Panel("Answers with feedback", "Feedback per answered request: when it moves by a fifth, comparisons of "
              "satisfaction are no longer fair.",
              (Query(rated, "{{version}}"),),
              "percentunit", width=12, minimum=0),
    ))  # fmt: skip


def texts() -> Row:
    """What answers are like."""
    legend, by, at = "{{version}}", "version", (0.5, 0.95)
    return Row("Answers", (
        Panel("Length", "Output tokens of an answer.", quantiles(c.RESPONSE_TOKENS, by, legend, at, window="$window"),
              minimum=0),
        Panel("Repetition", "Share of an answer's 4-grams of words that repeat earlier ones; mean of a sample.",
              (Query(mean(c.DUPLICATE_NGRAMS, by), legend),), "percentunit", minimum=0),
        Panel("Compression", "Bytes of text per byte of its zlib form: padding and boilerplate compress well; mean of "
              "a sample.", (Query(mean(c.COMPRESSION_RATIO, by), legend),), minimum=0),
    ))  # fmt: skip


def graders() -> Row:
    """The scoring service."""
    return Row("Scoring service", (
        Panel("Scores", "Scored, missing (the grader had nothing to say) or failed.",
              (Query(total(c.SCORING_SAMPLES, "grader, outcome", ""), "{{grader}} {{outcome}}"),), width=6, minimum=0),
        Panel("Time of a batch, p95", "By grader.",
              quantiles(c.SCORING_DURATION, "grader", "{{grader}}", (0.95,), where="", window="$window"), "s", width=6,
              minimum=0),
        Panel("Waiting", "Samples that wait or are being scored.", (Query(f"sum({of(c.SCORING_WAITING)})", "samples"),),
              width=6, minimum=0),
        Panel("Refused", "Requests refused because too much waits: these answers stay without scores.",
              (Query(total(c.SCORING_REFUSED, "", ""), "refused"),), "reqps", width=6, minimum=0),
    ))  # fmt: skip
