"""The sections of a run's report, as HTML."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from trainer.report_charts import Estimate, Marker, Series, interval_chart, line_chart
from trainer.report_html import badge, legend, mapping, pretty, table, words

SAMPLES = 12
Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run directory holds. Empty where there is nothing yet."""

    name: str
    frozen: Numbers = field(default_factory=dict)
    result: Numbers = field(default_factory=dict)
    data: Numbers = field(default_factory=dict)
    metrics: Sequence[Numbers] = ()
    samples: Sequence[Numbers] = ()
    before: Numbers = field(default_factory=dict)    # evaluations: body with version and suite
    after: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Plot:
    """One chart: title, what it tells, and lines as label → (split, name of the metric)."""

    title: str
    caption: str
    lines: Mapping[str, tuple[str, str]]
    noisy: bool = True


PLOTS = (
    Plot("Reward and gold", "Held-out prompts. A reward that rises while gold falls is being gamed.", {
        "reward (held out)": ("health", "health.reward"), "gold (held out)": ("health", "health.gold"),
        "reward (training)": ("train", "reward"),
    }),
    Plot("Loss", "Of the algorithm; in RL it says little.", {
        "loss": ("train", "loss"), "held out": ("train", "eval_loss"),
    }),
    Plot("Preference accuracy", "Share of pairs in which the chosen answer is preferred. 1.0 can be too much.", {
        "training": ("train", "rewards/accuracies"), "held out": ("train", "eval_rewards/accuracies"),
        "accuracy": ("train", "accuracy"),
    }),
    Plot("KL to the reference", "Nats an answer or token: how far the policy has moved.", {
        "held out": ("health", "health.kl"), "training": ("train", "kl"),
    }),
    Plot("Entropy", "Nats a token. A fall towards 0 is a collapse of variety.", {
        "held out": ("health", "health.entropy"), "training": ("train", "entropy"),
    }),
    Plot("Length of answers", "Tokens.", {
        "held out": ("health", "health.completion_tokens"), "training": ("train", "completions/mean_length"),
    }),
    Plot("Repetition and variety", "Duplicate 4-grams within an answer; different 4-grams over all answers.", {
        "duplicate 4-grams": ("health", "health.duplicate_4gram"), "distinct 4-grams": ("health", "health.distinct_4"),
    }),
    Plot("Alignment tax", "How much more the reward has risen than gold, in standard deviations of the start.", {
        "alignment tax": ("health", "health.alignment_tax"),
    }),
    Plot("Groups without a signal", "Share of groups whose rewards are all equal: they teach nothing.", {
        "zero variance": ("train", "health.zero_variance_ratio"),
    }),
    Plot("Sampler against trainer", "Gap of logprobs between the engine that samples and the model that learns.", {
        "logprob gap": ("train", "health.logprob_gap"),
    }),
    Plot("Gradient norm", "", {"norm": ("train", "grad_norm")}),
    Plot("Learning rate", "", {"rate": ("train", "learning_rate")}, noisy=False),
)  # fmt: skip


def header(run: Run) -> str:
    """Name, marks and the numbers that matter."""
    algorithm = str(run.frozen.get("algorithm", "run"))
    version = run.result.get("version")
    named = badge(str(version), "good") if version else badge("not published", "plain")
    badges = [badge(algorithm, "plain"), named]
    marks = mapping(run.result.get("marks"))
    alarms: dict[str, str] = {"": ""}
    for name, value in marks.items():
        if value and name != "reason":
            badges.append(badge(name.replace("_", " "), "bad"))
            said = _why(value, str(marks.get("reason", "")))
            alarms.setdefault(said, f"<div class='alarm'><b>{escape(words(name))}</b> {escape(said)}</div>")
    return (
        f"<header><h1>{escape(run.name)}</h1><p class='sub'>{escape(_when(run))}</p><p>{''.join(badges)}</p>"
        f"{''.join(alarms.values())}{_cards(run)}</header>"
    )


def charts(run: Run) -> str:
    """Every plot that has data."""
    markers = _markers(run)
    drawn = []
    for plot in PLOTS:
        series = [Series(label, _points(run, *where), plot.noisy) for label, where in plot.lines.items()]
        if svg := line_chart(series, markers):
            shown = [(place, one.label) for place, one in enumerate(series) if one.present]
            caption = f"<p class='caption'>{escape(plot.caption)}</p>" if plot.caption else ""
            drawn.append(f"<div class='chart'><h3>{escape(plot.title)}</h3>{caption}{svg}{legend(shown)}</div>")
    inside = "".join(drawn) or "<p class='empty'>Nothing has been logged yet.</p>"
    return f"<h2>Curves</h2><div class='charts'>{inside}</div>"


def slices_section(run: Run) -> str:
    """Slices before and after, from evaluations that were added to the run."""
    if not run.after:
        how = "understudy eval VERSION --suite FILE --against STABLE --run DIR"
        return f"<h2>Slices before and after</h2><p class='empty'>Not evaluated yet: <code>{how}</code></p>"
    sides = [(0, run.after)] + ([(1, run.before)] if run.before else [])
    estimates = [
        Estimate(name, place, one["value"], one["lower"], one["upper"])
        for place, side in sides
        for name, measured in mapping(side.get("slices")).items()
        if (one := measured.get("pass_at_1"))
    ]
    names = legend([(place, str(side.get("version", ""))) for place, side in sides])
    star = mapping(run.after.get("north_star"))
    said = ""
    if star:
        said = f"North star {star['name']}: {star['value']:.3f} [{star['lower']:.3f}, {star['upper']:.3f}]. "
    rows = [
        [group["slice"], group["kind"], group["grader"], group["prompts"], group["examples"][0]["question"],
         group["examples"][0]["answer"]]
        for group in run.after.get("failures", ())[:8]
    ]  # fmt: skip
    failures = table(["slice", "kind", "grader", "prompts", "such as", "answer"], rows) if rows else ""
    return (
        f"<h2>Slices before and after</h2><p class='sub'>{escape(said)}pass@1 with 95 % intervals</p>"
        f"<div class='chart'>{interval_chart(estimates)}{names}</div>"
        + (f"<h2>Where it still fails</h2>{failures}" if failures else "")
    )


def samples_section(run: Run) -> str:
    """Sample answers of the first and the last look."""
    steps = sorted({int(row["step"]) for row in run.samples if isinstance(row.get("step"), int)})
    if not steps:
        return ""
    parts = []
    for step in dict.fromkeys((steps[0], steps[-1])):
        rows = [row for row in run.samples if row.get("step") == step][:SAMPLES]
        cells = [[row.get(k) for k in ("prompt", "completion", "reward", "gold", "tokens")] for row in rows]
        opened = " open" if step == steps[-1] else ""
        shown = table(["prompt", "answer", "reward", "gold", "tokens"], cells)
        parts.append(f"<details{opened}><summary>Step {step}</summary>{shown}</details>")
    return f"<h2>Sample answers</h2>{''.join(parts)}"


def data_section(run: Run) -> str:
    """What the checks of the data found."""
    if not run.data:
        return ""
    plain = {key: value for key, value in run.data.items() if not isinstance(value, dict | list) and value != ""}
    tokens = mapping(run.data.get("tokens"))
    for key, value in tokens.items():
        said = ", ".join(f"{name} {number}" for name, number in value.items()) if isinstance(value, dict) else value
        plain[f"tokens: {key}"] = said
    return f"<h2>Data</h2>{table(['what', 'found'], [[words(k), v] for k, v in plain.items()])}"


def configuration(run: Run) -> str:
    """Config, digests and versions, as frozen."""
    if not run.frozen:
        return "<h2>Configuration</h2><p class='empty'>run.json is not there.</p>"
    nested = {key: value for key, value in run.frozen.items() if isinstance(value, dict | list)}
    parts = [
        f"<details><summary>{escape(words(key))}</summary><pre>{escape(pretty(value))}</pre></details>"
        for key, value in nested.items()
    ]
    flat = [[words(key), _value(key, value)] for key, value in run.frozen.items() if not isinstance(value, dict | list)]
    return f"<h2>Configuration and digests</h2>{table(['what', 'value'], flat)}{''.join(parts)}"


def _cards(run: Run) -> str:
    found: dict[str, Any] = {}
    last = next((row for row in reversed(run.metrics) if "step" in row), None)
    if last:
        found["steps"] = last["step"]
    found |= {key: value for key, value in mapping(run.result.get("facts")).items() if key != "steps"}
    found |= {"seed": run.frozen["seed"]} if "seed" in run.frozen else {}
    cards = [_card(key, value) for key, value in found.items() if isinstance(value, int | float | str)]
    return f"<div class='cards'>{''.join(cards)}</div>" if cards else ""


def _card(key: str, value: float | str) -> str:
    said = f"{value:.4g}" if isinstance(value, float) else str(value)
    kind = " class='long'" if len(said) > 12 else ""
    return f"<div class='card'><b{kind}>{escape(said)}</b><span>{escape(words(key))}</span></div>"


def _points(run: Run, split: str, name: str) -> list[tuple[float, float | None]]:
    """One point a step; a later row of the same step counts (a resumed run measures it again)."""
    found: dict[float, float | None] = {}
    for row in run.metrics:
        value = row.get(name, row)
        if row.get("split") == split and value is not row and isinstance(row.get("step"), int | float):
            found[float(row["step"])] = float(value) if isinstance(value, int | float) else None
    return sorted(found.items(), key=lambda point: point[0])


def _markers(run: Run) -> list[Marker]:
    markers = []
    collapse = mapping(mapping(run.result.get("marks")).get("run_collapsed"))
    if isinstance(collapse.get("step"), int):
        markers.append(Marker(collapse["step"], "collapsed", bad=True))
    if isinstance(run.result.get("step"), int) and run.result.get("version"):
        markers.append(Marker(run.result["step"], "published"))
    return markers


def _value(key: str, value: Any) -> Any:
    """Instants as dates."""
    return _date(value) if key.endswith("_at") and isinstance(value, int | float) else value


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _when(run: Run) -> str:
    started = run.frozen.get("started_at")
    if not isinstance(started, int | float):
        return "not started"
    said = _date(started)
    last = next((row["time"] for row in reversed(run.metrics) if isinstance(row.get("time"), int | float)), None)
    return f"{said}, {max(0.0, last - started):.0f} s" if last else said


def _why(value: Any, reason: str) -> str:
    """A mark's own reason, or that of all marks."""
    return str(mapping(value).get("reason", value if isinstance(value, str) else "") or reason)
