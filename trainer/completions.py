"""Completions from the engine that will serve: any vLLM with run-time LoRA, the adapter hot-loaded at each step.

At every new optimizer step the adapter is saved where the engine can read it and loaded under a name that no engine
has ever seen (an engine may go on answering with the weights it knew under a name: vLLM #42125, #33791); the one
before is unloaded. The engine samples with token ids in and out, so nothing is tokenised twice, and gives each
token's logprob. How far these lie from the trainer's own is a health number: TRL applies no importance correction to
completions from outside.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapters.errors import EngineRefused, EngineUnavailable, TrainingError
from trainer.engine_client import Engine
from trainer.job import Job
from trainer.ranks import barrier, shared
from trainer.rl_settings import CompletionsSettings
from trainer.sampling import Answer
from trainer.session import is_first

NOTES = "engine.json"
_NAME = "training-{run}-{start}-{step}"


class EngineSampler:
    """Answers of the adapter in training, sampled by the engine.

    `save`: writes the adapter into a folder, PEFT's files. `run`: the run's name, for the engine's log. `folder`: the
    run directory; what a killed process left on the engine is noted there, and taken off at the next start.
    """

    def __init__(self, settings: CompletionsSettings, run: str, folder: Path, save: Callable[[Path], None]) -> None:
        self.engine = Engine(settings)
        self.step: int | None = None     # of the adapter that is loaded
        self.loaded = ""
        self._save = save
        self._run = run
        # Each start of the process has names of its own: a resumed run repeats steps, with other weights perhaps.
        self._start = uuid.uuid4().hex[:8]
        self._folder = (Path(settings.shared_dir) if settings.shared_dir else folder) / f"hot-{self._start}"
        self._seen_as = Path(settings.engine_dir) / self._folder.name if settings.engine_dir else self._folder
        self._notes = folder / NOTES
        if is_first():
            self._clear_up()

    def sync(self, step: int) -> None:
        """Let the engine answer with the adapter as it is at `step`; nothing to do when it does already.

        Every rank must call it; the first one saves and loads for all.
        """
        if step == self.step:
            return
        name = str(shared(_NAME.format(run=self._run, start=self._start, step=step)))
        self._save(self._folder / str(step))
        if is_first():
            self._note(self.loaded, name)
            self.engine.load(name, str(self._seen_as.absolute() / str(step)))
        barrier()
        before, old = self.loaded, self.step
        self.step, self.loaded = step, name
        if before and is_first():
            self.engine.unload(before)
            # Its folder may go only now: an engine that evicted an adapter reads it again, and dies if it is gone.
            shutil.rmtree(self._folder / str(old), ignore_errors=True)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        **options: Any,
    ) -> list[list[Answer]]:
        """`samples` answers to each prompt (token ids) with their logprobs; the base's before the first `sync`.

        `options`: top_p and others of vLLM's.
        """
        body = {
            "model": self.loaded or self.engine.base(), "prompt": [list(prompt) for prompt in prompts], "n": samples,
            "max_tokens": max_tokens, "temperature": temperature, "seed": seed, "top_p": 1.0, "top_k": 0,
            "logprobs": 0, "return_token_ids": True, "add_special_tokens": False, "skip_special_tokens": True,
        }  # fmt: skip
        choices = self.engine.complete({**body, **options})
        if len(choices) != len(prompts) * samples:
            raise EngineUnavailable(f"{self.engine.url} gave {len(choices)} of {len(prompts) * samples} completions")
        answers = [
            _answer(choice, prompts[place // samples], self.engine.url) for place, choice in enumerate(choices)
        ]
        return [answers[i : i + samples] for i in range(0, len(answers), samples)]

    def close(self) -> None:
        """Unload, and forget the files. An engine that is gone already is no error: the run is over."""
        try:
            if self.loaded and is_first():
                self.engine.unload(self.loaded)
                self._notes.unlink(missing_ok=True)
        except (EngineUnavailable, EngineRefused):
            pass  # noted: the next start tries again
        finally:
            self.loaded = ""
            self.engine.close()
            if is_first():
                shutil.rmtree(self._folder, ignore_errors=True)

    def _note(self, *names: str) -> None:
        """What may be on the engine from now on, should this process die."""
        said = {"folder": str(self._folder), "names": [name for name in names if name]}
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        self._notes.write_text(json.dumps(said), encoding="utf-8")

    def _clear_up(self) -> None:
        """Take off what a killed process of this run has left. Raises EngineUnavailable."""
        try:
            left = json.loads(self._notes.read_text(encoding="utf-8"))
            names, folder = [str(name) for name in left["names"]], Path(left["folder"])
        except (OSError, ValueError, KeyError, TypeError):  # none, or torn while it was written
            return
        for name in names:
            self.engine.unload(name)
        if folder.name.startswith("hot-"):
            shutil.rmtree(folder, ignore_errors=True)


def _answer(choice: Mapping[str, Any], prompt: Sequence[int], url: str) -> Answer:
    try:
        ids = tuple(int(i) for i in choice["token_ids"])
        found = choice["logprobs"]["token_logprobs"]
        logprobs = tuple(float("nan") if value is None else float(value) for value in found)
        text = str(choice["text"])
    except (KeyError, TypeError, ValueError):
        raise EngineUnavailable(f"{url} gives no token ids or logprobs: vLLM 0.10.2 or newer is needed") from None
    if not ids or len(ids) != len(logprobs):
        raise EngineUnavailable(f"{url} gave {len(ids)} tokens with {len(logprobs)} logprobs")
    return Answer(tuple(prompt), ids, text, logprobs)


@contextmanager
def starting_policy(job: Job) -> Iterator[EngineSampler]:
    """The engine with what the run starts from: the adapter of init_from, or its own base."""

    def copy(folder: Path) -> None:
        if is_first() and job.init_from is not None:
            shutil.copytree(job.init_from, folder)

    sampler = EngineSampler(job.config.completions, job.run.name, job.run.path, copy)
    try:
        if job.init_from is not None:
            sampler.sync(0)
        yield sampler
    finally:
        sampler.close()


class GapAlarm:
    """How far the engine's logprobs lie from the trainer's, and when that is too far for too long."""

    def __init__(self, settings: CompletionsSettings) -> None:
        self._settings = settings
        self._above = 0

    def observe(self, gap: float) -> None:
        """Mean |engine − trainer| of a step's tokens, nats. Raises TrainingError after `gap_patience` steps too far."""
        limit = self._settings.max_logprob_gap
        self._above = 0 if gap <= limit else self._above + 1
        if self._above >= self._settings.gap_patience:
            raise TrainingError(
                f"the engine's logprobs lie {gap:.3f} nats a token from the trainer's, above "
                f"completions.max_logprob_gap = {limit:g}, for {self._above} steps: does it serve the run's base, "
                "at the same quantization?"
            )
