"""`understudy eval`: runs a suite against a version and stores what it found. No torch unless --local."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adapters.artifacts import ArtifactStore
    from adapters.database import Database
    from adapters.evaluation_store import Evaluation
    from adapters.registry import Registry
    from trainer.evaluate import Evaluated
    from trainer.evaluation.answers import Answering
    from trainer.installation import Installation
    from trainer.suite import Suite

KEY_VARIABLE = "UNDERSTUDY_API_KEY"


def eval_command(  # noqa: PLR0917 - the options of a command
    version: Annotated[str, typer.Argument(metavar="VERSION", help="such as support@3f2a9c1b7d20; base = no adapter")],
    suite_file: Annotated[Path, typer.Option("--suite", metavar="FILE", help="the suite, TOML (docs/evaluation.md)")],
    local: Annotated[bool, typer.Option("--local", help="transformers on this machine instead of the gateway")] = False,
    against: Annotated[str, typer.Option(metavar="VERSION", help="compare with its stored evaluation")] = "",
    failures: Annotated[Path | None, typer.Option(metavar="FILE", help="write failing rows, as JSONL")] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="show the slices in this training run's report")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="requests at once")] = 8,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget answers of an interrupted evaluation")] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", metavar="FILE", help="understudy.toml")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Run a suite against VERSION through the gateway, as it serves; store and show what each slice measured."""
    from adapters.errors import ConfigError
    from trainer.installation import load_installation, open_database_of
    from trainer.suite import load_suite

    if run_dir is not None and not (run_dir / "run.json").is_file():
        raise ConfigError(f"--run {run_dir} is no run directory: it has no run.json")
    suite = load_suite(suite_file)
    installation = load_installation(config)
    with open_database_of(installation) as database:
        found, stable = _run(
            installation, database, suite, version, local=local, against=against, concurrency=concurrency, fresh=fresh
        )
    path = _write_file(installation.data_dir / "evaluations", found)
    if failures is not None:
        from trainer.evaluation.failures import write_counterexamples

        every = [one for answers in found.judged.values() for one in answers]
        typer.echo(f"{write_counterexamples(failures, every)} failing answers in {failures}", err=True)
    if run_dir is not None:
        _add_to_report(run_dir, found, stable)
    _show(found, stable, path, as_json=as_json)


def _show(found: Evaluated, stable: Evaluation | None, path: Path, *, as_json: bool) -> None:
    from trainer.evaluation.comparison import compare
    from trainer.evaluation.show import print_comparison, print_evaluation

    evaluation = found.evaluation
    compared = compare(evaluation.body, stable.body) if stable else None
    if as_json:
        facts = {"version": evaluation.version, "suite_digest": evaluation.suite_digest, "file": str(path)}
        shown = {**facts, **evaluation.body, "comparison": compared and asdict(compared)}
        typer.echo(json.dumps(shown, indent=2))
        return
    print_evaluation(evaluation)
    if compared and stable:
        print_comparison(compared, evaluation.version, stable.version)
    typer.echo(f"stored; texts are in {path}", err=True)


def _run(
    installation: Installation, database: Database, suite: Suite, version: str, *,
    local: bool, against: str, concurrency: int, fresh: bool,
) -> tuple[Evaluated, Evaluation | None]:  # fmt: skip
    """What was found, stored, and stable's evaluation. Everything that can be wrong is looked at before asking."""
    from adapters.artifacts import ArtifactStore
    from adapters.errors import NotFound
    from adapters.evaluation_store import EvaluationStore
    from adapters.registry import Registry
    from monitors.rewards.stored import version_finder
    from trainer.evaluate import Evaluated, evaluate
    from trainer.evaluation.grading import Grading

    artifacts = ArtifactStore(installation.artifacts, installation.data_dir)
    registry, store = Registry(database, artifacts), EvaluationStore(database)
    name, model = resolve_version(installation, registry, version)
    grading = Grading(suite, version_finder(registry, artifacts))
    stable = None
    if against:
        against, _ = resolve_version(installation, registry, against)
        stable = store.latest(against, suite.name)
        if stable is None:
            raise NotFound(f"{against} has not been evaluated: run `understudy eval {against} --suite …` first")
    kept = installation.data_dir / "evaluations" / "interrupted"
    if fresh:
        for path in kept.glob(f"{name}-*.jsonl"):
            path.unlink(missing_ok=True)
    if local:
        opened = _local(installation, artifacts, registry, suite, name)
    else:
        opened = _gateway(installation, database, suite, (name, model), concurrency)
    with opened as it, _progress() as (progress, say):
        source = "local" if local else "gateway"
        found = evaluate(suite, grading, it, version=name, source=source, kept=kept, progress=progress, say=say)
    return Evaluated(store.add(found.evaluation), found.judged), stable


def resolve_version(installation: Installation, registry: Registry, version: str) -> tuple[str, str]:
    """(the name in the registry or base@<12 hex>, the model to ask for). Raises NotFound, ConfigError, Conflict."""
    from adapters.base import read_base, resolve_base
    from adapters.errors import Conflict
    from adapters.types import Kind

    served = installation.engine.served_name
    if version in ("base", served) or re.fullmatch(r"base@[0-9a-f]{12}", version):
        info = read_base(resolve_base(installation.engine.base_model), installation.data_dir / "cache")
        if "@" in version and version != info.version:
            raise Conflict(f"the engines serve {info.version}, not {version}")
        return info.version, served
    found = registry.get(version)
    if found.kind is not Kind.ADAPTER:
        raise Conflict(f"{version} is a {found.kind.value.replace('_', ' ')} and answers nothing")
    return found.name, found.name


@contextmanager
def _local(
    installation: Installation, artifacts: ArtifactStore, registry: Registry, suite: Suite, name: str
) -> Iterator[Answering]:
    from adapters.base import resolve_base
    from trainer.evaluation.local import LocalAnswers

    adapter = None if name.startswith("base@") else artifacts.materialise(registry.get(name).digest)
    yield LocalAnswers(resolve_base(installation.engine.base_model), adapter, top_p=suite.settings.top_p)


@contextmanager
def _gateway(
    installation: Installation, database: Database, suite: Suite, names: tuple[str, str], concurrency: int
) -> Iterator[Answering]:
    from trainer.evaluation.gateway import GatewayAnswers, operator_key

    given, settings = os.environ.get(KEY_VARIABLE, ""), suite.settings
    with operator_key(database, given, installation.keys_required) as key:
        yield GatewayAnswers(
            installation, names[1], key, expected=names[0], concurrency=concurrency, top_p=settings.top_p,
            logprobs=settings.confidence != "none",
        )  # fmt: skip


@contextmanager
def _progress() -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("asking", total=None)

        def say(text: str) -> None:
            bar.update(task, description=text)
            if text != "grading":
                typer.echo(text, err=True)

        yield lambda done, total: bar.update(task, completed=done, total=total), say


def _add_to_report(run_dir: Path, found: Evaluated, stable: Evaluation | None) -> None:
    """Keep both evaluations in the run directory and write its report anew. Raises TrainingError."""
    from trainer.report import SAVED, write_report

    for name, evaluation in (("after", found.evaluation), ("before", stable)):
        path = run_dir / SAVED / f"{name}.json"
        if evaluation is None:
            path.unlink(missing_ok=True)
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"version": evaluation.version, **evaluation.body}), encoding="utf-8")
    typer.echo(f"the run's report is {write_report(run_dir)}", err=True)


def _write_file(folder: Path, found: Evaluated) -> Path:
    """The evaluation with all texts, as JSON. Raises ConfigError."""
    from adapters.errors import ConfigError

    evaluation = found.evaluation
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(evaluation.at))
    path = folder / f"{evaluation.version}-{re.sub(r'[^A-Za-z0-9_-]+', '-', evaluation.suite)[:60]}-{stamp}.json"
    answers = [
        {"key": one.ask.key, "prompt": list(one.ask.row.prompt), **asdict(one.answer), "score": one.score,
         "graders": dict(one.parts), "kind": one.kind}
        for judged in found.judged.values()
        for one in judged
    ]  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(evaluation), "answers": answers}, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    return path
