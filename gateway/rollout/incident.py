"""The report of a rollback, as Markdown and as JSON: what was seen, the numbers, the timeline, what to do next.

Written once per rollback into data_dir/incidents, whole or not at all. The file's name follows from the rollout, so
that `understudy rollout history` finds it without asking anybody.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.evidence_store import EvidenceStore
from adapters.rollout_store import RolloutStore
from adapters.rollouts import Rollout, RolloutEvent
from gateway.rollout.collapse_report import rewards_lines

if TYPE_CHECKING:
    from gateway.rollout.plant import RolloutStores

log = logging.getLogger("understudy.rollout")

_CAUSES = {
    "load": "see `understudy doctor` and the engine's log; `understudy adapter verify VERSION` repeats the check",
    "breaker": "ask the version by its full name (an operator's key) and look at the engine's log",
    "stable_arm": "both arms suffered: look at the engines; the candidate may have poisoned the cache they share",
    "non_finite": "the weights overflow in the serving precision: evaluate the version on the serving base",
    "thumbs_down": "read the rated answers, add them to the next training set, and run the evaluation again",
    "collapse": "the reward no longer says what users like: do not train on it further; rate the answers named here "
                "by hand, mend the grader (docs/collapse.md), and evaluate the version again",
    "quality_regression": "users like the answers less, and the reward agrees: compare them with those of the version "
                          "before on the same prompts",
    "alert": "read the alert's runbook (docs/slo.md) and look at its objective over the time of the rollout: an alert "
             "names a route, so make sure that it was this version, and not an engine, that broke it",
    "after_promotion": "compare the version's answers with those of the one before on the same prompts",
}


def incident_path(folder: Path, rollout: Rollout, version: str = "") -> Path:
    """Where the Markdown report of this rollout is, or would be; of one of several candidates that was dropped."""
    return folder / f"{rollout.id:06d}-{(version or rollout.candidate).replace('@', '-')}.md"


def exists(folder: Path, rollout: Rollout, version: str = "") -> bool:
    """True when it was written."""
    return incident_path(folder, rollout, version).exists()


def write_incident(
    folder: Path, rollout: Rollout, rollouts: RolloutStore, evidence: EvidenceStore, version: str = ""
) -> Path:
    """Write both files, the Markdown last; returns its path. Raises DatabaseError, OSError.

    `version`: of several candidates the one that was dropped by itself; else the rollout's end is reported.
    """
    body = _collect(rollout, rollouts.events(rollout.id), evidence, version)
    folder.mkdir(parents=True, exist_ok=True)
    path = incident_path(folder, rollout, version)
    _replace(path.with_suffix(".json"), json.dumps(body, indent=2, default=str) + "\n")
    _replace(path, _markdown(body))
    return path


def report_dropped(folder: Path, rollout: Rollout, version: str, stores: RolloutStores) -> None:
    """Report a candidate that was dropped while others go on, unless that is done. Raises DatabaseError, OSError."""
    if not exists(folder, rollout, version):
        path = write_incident(folder, rollout, stores.rollouts, stores.evidence, version)
        log.warning("rollout %d: the incident report of %s is %s", rollout.id, version, path)


def _collect(
    rollout: Rollout, events: list[RolloutEvent], evidence: EvidenceStore, dropped: str
) -> dict[str, Any]:
    def ends(event: RolloutEvent) -> bool:
        return event.numbers.get("candidate") == dropped if dropped else event.kind == "rolled_back"

    last = next((e for e in reversed(events) if e.kind in ("rolled_back", "dropped") and ends(e)), None)
    numbers = dict(last.numbers) if last else {}
    candidate, cause = dropped or rollout.candidate, str(numbers.get("cause", ""))
    seen = rollout.state.get("seen", {})
    return {
        "rollout": rollout.id,
        "route": rollout.route,
        "candidate": candidate,
        "rivals": [version for version in rollout.candidates if version != candidate],
        "stable": rollout.stable,
        "plan": rollout.plan.get("name", ""),
        "reason": last.reason if dropped and last else rollout.reason,
        "cause": cause,
        "actor": last.actor if last else "",
        "started_at": rollout.started_at,
        "ended_at": last.at if dropped and last else rollout.ended_at,
        "numbers": numbers,
        "timeline": [asdict(event) for event in events],
        "samples": evidence.samples(rollout.id, rollout.number_of(candidate)) or evidence.newest(rollout.id, candidate),
        "tests": seen.get("rivals", {}).get(candidate, seen).get("harm", []),
        "next": _next_steps(rollout, candidate, cause),
    }


def _next_steps(rollout: Rollout, candidate: str, cause: str) -> list[str]:
    steps = [_CAUSES[cause].replace("VERSION", candidate)] if cause in _CAUSES else []
    steps.append(f"{candidate} is quarantined; when the cause is known to be elsewhere: "
                 f"`understudy adapter release {candidate} --reason TEXT`")
    return [*steps, f"then begin again with `understudy rollout start {rollout.route} {candidate}`"]


def _markdown(body: dict[str, Any]) -> str:
    beside = f", the other candidates were {', '.join(body['rivals'])}" if body["rivals"] else ""
    lines = [
        f"# Rollback of {body['candidate']} on {body['route']}",
        "",
        f"Rollout {body['rollout']}, plan {body['plan'] or '-'}; stable is {body['stable']}{beside}. "
        f"{_when(body['started_at'])} to {_when(body['ended_at'])}.",
        "",
        "## What was seen",
        "",
        f"{body['reason']} (cause: {body['cause'] or '-'}; by {body['actor'] or '-'})",
        "",
        "## Numbers",
        "",
        "| test | events | log e | threshold | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for test in body["tests"]:
        cells = (test["metric"], f"{test['n']:g}", _number(test["log_e"]), _number(test["threshold"]), test["verdict"])
        lines.append("| " + " | ".join(cells) + " |")
    lines += rewards_lines(body["numbers"])
    lines += ["", "## Timeline", ""]
    lines += [f"- {_when(e['at'])} {e['kind']} by {e['actor']}: {e['reason']}" for e in body["timeline"]]
    lines += ["", "## Answers to look at", ""]
    lines += [f"- {s['metric']}: `{s['response_id']}` at {_when(s['at'])}" for s in body["samples"]] or ["- none"]
    lines += ["", "## What to do next", ""]
    return "\n".join([*lines, *(f"- {step}" for step in body["next"])]) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _when(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds)) if seconds else "-"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
