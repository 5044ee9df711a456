"""The chapters of the demo, in order. Each does what a user would do, and measures what it claims."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from adapters.errors import TrainingError
from monitors.text import duplicate_ngram_fraction
from trainer.demo import world
from trainer.demo.crowd import Asked, read
from trainer.demo.fired import fired, in_words
from trainer.demo.plot import draw
from trainer.demo.rollout import crowd, follow, plan_text
from trainer.demo.suite import write_suite
from trainer.demo.telling import Story, last_metric, train

ROUTE = "support"
PROMPTS = 80             # of each task, in an evaluation
SAMPLES = 2              # answers to each prompt
BEFORE = 8.0             # seconds of users before a rollout: what stable is like
LONGEST = 300.0          # seconds a rollout may take
BUDGET = 1.0             # seconds from the deciding event to the last request that starts on the candidate
OVERRIDE = "the dashboard's reward is the best we ever had"


def train_sft(story: Story) -> None:
    """A first adapter, from people's demonstrations."""
    version, seconds = train(story, "sft", "sft")
    story.report["sft"] = {"version": version, "train_seconds": seconds}


def release_sft(story: Story) -> None:
    """Base against adapter on every slice, the gate, and into service."""
    stack = story.stack
    write_suite(story.folder / "suite", prompts=PROMPTS, samples=SAMPLES)
    base, tuned = evaluate(story, "base"), evaluate(story, stack.versions["sft"])
    story.report["base"] = {"held_out_accuracy": base}
    story.report["sft"]["held_out_accuracy"] = tuned
    story.tally.learn("base")
    passed = gate(story, stack.versions["sft"], "base")
    story.tally.learn(stack.versions["sft"])
    story.claim(passed, f"the gate lets {stack.versions['sft']} through")
    if passed:
        stack.understudy("route", "set", ROUTE, stack.versions["sft"])
    asked = f"{PROMPTS * len(world.TASKS)} prompts, {SAMPLES} answers to each, temperature 1"
    story.tell(f"held-out accuracy: base {base:.3f}, with SFT {tuned:.3f} ({asked})")
    story.claim(tuned > base, "SFT beats the base on prompts it has never seen")


def train_grpo(story: Story) -> None:
    """The same adapter, continued by reinforcement learning with a verifier."""
    version, seconds = train(story, "grpo", "grpo", story.stack.versions["sft"])
    story.report["grpo"] = {
        "version": version, "train_seconds": seconds, "training_reward": round(last_metric(story, "grpo", "reward"), 3),
    }  # fmt: skip
    story.report["grpo"]["held_out_accuracy"] = found = evaluate(story, version)
    story.claim(gate(story, version, story.stack.versions["sft"]), f"the gate lets {version} through")
    story.tally.learn(version)
    before = story.report["sft"]["held_out_accuracy"]
    story.tell(f"held-out accuracy: SFT {before:.3f}, then GRPO {found:.3f}")
    story.claim(found > before, "GRPO exceeds the demonstrations it started from")


def promote_grpo(story: Story) -> None:
    """Through shadow, canary and A/B, by itself."""
    candidate = story.stack.versions["grpo"]
    row, seen, _ = _roll_out(story, story.stack.versions["sft"], candidate)
    story.report["promotion"] = {"phases": _phases(story, row, seen), "outcome": row["phase"]}
    story.claim(row["phase"] == "promoted", f"{candidate} is promoted: {row['reason'][:200]}")
    _count(story, row, seen)


def train_hacked(story: Story) -> None:
    """The reward goes to 1 while the answers turn to nothing; health says so, and so does the gate."""
    stack = story.stack
    version, _ = train(story, "grpo", "hacked")
    found = evaluate(story, version)
    passed = gate(story, version, stack.versions["grpo"])
    story.tally.learn(version)
    story.report["hacked"] = {
        "version": version, "training_reward": round(last_metric(story, "hacked", "reward"), 3),
        "held_out_accuracy": found, "duplicate_4gram": _duplicates(story, version),
        "gate": "passed" if passed else "failed", "override_reason": OVERRIDE,
    }  # fmt: skip
    lineage = json.loads(stack.understudy("adapter", "show", version, "--json"))["lineage"]
    story.claim(bool(lineage.get("marks", lineage).get("collapsed")), "its training run carries the mark `collapsed`")
    story.claim(not passed, "the gate refuses it")


def catch_hacked(story: Story) -> None:
    """Released by an override with a reason; caught by what users say, while the reward is the best of all."""
    stack = story.stack
    hacked, stable = stack.versions["hacked"], stack.versions["grpo"]
    stack.understudy("gate", hacked, "--against", stable, "--override", OVERRIDE)
    row, seen, began = _roll_out(story, stable, hacked)
    theirs = [o for o in seen if o.version == hacked and o.status == 200]
    ours = [o for o in seen if o.version == stable and o.status == 200]
    report = story.report["hacked"]
    report["stable_reward_same_grader"] = round(_mean([o.helpful for o in ours]), 3)
    report["response_tokens"] = round(_mean([float(o.text_length) for o in theirs]), 1)
    story.report["rollback"] = _rollback(row, theirs)
    events = stack.operator("GET", f"/api/v1/rollouts/{row['id']}")["events"]
    story.report["rollback"]["fired"] = found = fired(row, events)
    story.tell(in_words(found))
    story.claim(found["cause"] != "", f"it is on record what fired: {found['detector']}")
    story.claim(found["collapse"]["verdict"] != "ok", "no detector called it fine")
    reward, liked, before = _mean([o.helpful for o in theirs]), _liked(theirs), _liked(ours)
    story.tell(f"automated reward {reward:.2f} against {report['stable_reward_same_grader']:.2f};"
               f" satisfaction {liked:.2f} against {before:.2f}")
    story.claim(row["phase"] == "rolled_back", f"{hacked} is rolled back: {row['reason'][:200]}")
    story.claim(reward > report["stable_reward_same_grader"], "its automated reward is the best of all")
    stage = json.loads(stack.understudy("adapter", "show", hacked, "--json"))["stage"]
    story.claim(stage == "quarantined", "it is quarantined until an operator releases it")
    late = story.report["rollback"]["candidate_responses_after_reroute"]
    story.claim(late == 0, f"{late} requests went to it later than {BUDGET:.0f} s after the deciding evidence")
    _count(story, row, seen)
    draw(story.folder / "reward-and-satisfaction.svg", seen, hacked, began, row["ended_at"])


def evaluate(story: Story, version: str) -> float:
    """`understudy eval` of the version as it serves; its share of strict exact matches, the mean over all tasks."""
    suite = story.folder / "suite" / "suite.toml"
    found = json.loads(story.stack.understudy("eval", version, "--suite", str(suite), "--json"))
    return round(float(found["north_star"]["value"]), 3)


def gate(story: Story, version: str, against: str) -> bool:
    """The promotion rules against another evaluated version; True when they pass. Says why not."""
    done = story.stack.command("gate", version, "--against", against, "--json")
    if done.returncode not in (0, 3):  # 3: a rule did not pass
        raise TrainingError(f"understudy gate {version}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    for rule in found["rules"]:
        story.tell(f"{rule['verdict']:8} {rule['rule']}: {rule['says'][:140]}")
    return bool(found["passed"])


def _roll_out(story: Story, stable: str, candidate: str) -> tuple[dict[str, Any], list[Asked], float]:
    """One rollout under users: its last row, what the users saw, and when they began."""
    fixed = story.tally.prompts(stable, candidate)
    story.tell(f"{len(fixed)} prompts show by their answers which of the two versions wrote them; some users ask those")
    stack = story.stack
    plan, out = story.folder / "plan.toml", story.folder / f"users-{candidate}.jsonl"
    plan.write_text(plan_text(), encoding="utf-8")
    began = time.time()
    with crowd(stack, out, story.seed, seconds=LONGEST + 60, fixed=fixed):
        time.sleep(BEFORE)
        stack.understudy("rollout", "start", ROUTE, candidate, "--plan", str(plan))
        row = follow(stack, ROUTE, LONGEST, story.tell)
        time.sleep(4.0)
    return row, read(out), began


def _phases(story: Story, row: dict[str, Any], seen: list[Asked]) -> list[dict[str, Any]]:
    """What each phase took. Responses: the candidate's, seen by users; in the shadow nobody sees them."""
    events = story.stack.operator("GET", f"/api/v1/rollouts/{row['id']}")["events"]
    moves = [event for event in events if event["kind"] in ("started", "moved", "promoted", "rolled_back")]
    places = [{"phase": "preparing", "weight": 0.0, "step": 0}, *(dict(event["numbers"]) for event in moves[1:])]
    ends = [event["at"] for event in moves[1:]] + [row["ended_at"] or time.time()]
    answered = story.tally.by_step(seen, row["id"], row["candidate"])
    found = []
    for event, place, end in zip(moves, places, ends, strict=True):
        if place.get("phase") and end > event["at"]:
            responses = answered[place["step"]] if place["phase"] != "preparing" else 0
            found.append({"phase": place["phase"], "weight": place["weight"],
                          "seconds": round(end - event["at"], 1), "responses": responses})  # fmt: skip
    return found


def _rollback(row: dict[str, Any], theirs: list[Asked]) -> dict[str, Any]:
    """Rerouted is who asked last and still got the candidate; late is whoever did so beyond the budget."""
    ended = row["ended_at"] or time.time()
    evidence = [o.ended for o in theirs if o.thumb == 0 and o.ended <= ended]
    deciding = max(evidence, default=ended)
    last = max((o.at for o in theirs), default=ended)
    return {
        "reason": row["reason"], "candidate_responses": len(theirs),
        "feedbacks": sum(o.thumb is not None and o.ended <= ended for o in theirs),
        "seconds_from_last_evidence_to_reroute": round(max(last, ended) - deciding, 3) if evidence else None,
        "candidate_responses_after_reroute": sum(o.at > deciding + BUDGET for o in theirs),
    }  # fmt: skip


def _duplicates(story: Story, version: str) -> float:
    """Share of repeated 4-grams in the version's answers to a few prompts."""
    shares = []
    for example in world.examples(12, 9, "held_out"):
        text = story.stack.ask(version, example.prompt)
        shares.append(duplicate_ngram_fraction(list(text.encode()), 4))
    return round(_mean([share for share in shares if share is not None]), 3)


def _count(story: Story, row: dict[str, Any], seen: list[Asked]) -> None:
    """All requests of all chapters: those that failed, and those that another version answered than is said."""
    both = (row["stable"], row["candidate"])
    events = story.stack.operator("GET", f"/api/v1/rollouts/{row['id']}")["events"]
    found = story.tally.count(seen, both, [event["at"] for event in events])
    story.report["requests"] = counted = story.tally.report()
    story.claim(counted["failed"] == 0, f"{counted['failed']} of {counted['total']} requests failed so far")
    story.claim(
        counted["wrong_version"] == 0,
        f"{counted['wrong_version']} answers so far came from another version than their header says, by"
        f" {counted['judged_by_id']} signed ids and {counted['judged_by_content']} answers to fixed prompts"
        f" ({counted['judged_by_content_near_a_change']} of them within a second of a change of weights)",
    )
    judged = {version: sum(one.version == version for one in found.judged) for version in both}
    said = " and ".join(f"{count} of {version}" for version, count in judged.items())
    story.claim(min(judged.values()) > 0, f"answers to fixed prompts were judged of both versions: {said}")


def _liked(answers: list[Asked]) -> float:
    return _mean([float(o.thumb) for o in answers if o.thumb is not None])


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else float("nan")
