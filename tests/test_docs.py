"""The documentation names only commands, settings, metrics, make targets and files that exist, and is up to date."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from adapters.settings import ENV_PREFIX, load
from deploy.docs import PAGES
from gateway import cli
from gateway.config import Settings
from monitors import conventions
from tests.support import markdown, tree

ROOT = tree.ROOT


def problems_in_pages(check: Callable[[markdown.Code], Iterator[str]]) -> list[str]:
    """Every problem `check` finds in any piece of code, with its place."""
    pieces = [code for page in markdown.pages() for code in markdown.code(page)]
    assert pieces
    return [f"{code.where}: {problem}" for code in pieces for problem in check(code)]


@pytest.mark.parametrize("page", list(PAGES))
def test_generated_pages_are_current(page):
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == PAGES[page](), "run `make docs`"


def command_tree() -> Any:
    """The root command as Typer builds it. Typer brings its own copy of click, hence no types here."""
    return typer.main.get_command(cli.app)


COMMAND = re.compile(r"(?:^|[\s$;&|(/])understudy(?=\s+[a-z-])(?P<rest>[^\n`;&|#()→]*)")


def wrong_command(root: Any, text: str) -> str | None:
    """What is wrong with the words after `understudy`, or None. Capitals and <…> stand for the user's own values."""
    words = [word.strip("[].,:…") for word in shlex.split(text.replace("'", " "))]
    command, context, path = root, root.context_class(root, info_name="understudy"), "understudy"
    for word in (word for word in words if word):
        if word.startswith("-"):
            known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
            if word.split("=")[0] not in known:
                return f"`{path}` has no option {word}"
        elif hasattr(command, "get_command"):
            below = command.get_command(context, word)
            if below is None:
                return None if word.isupper() else f"`{path}` has no command {word!r}"
            command, path = below, f"{path} {word}"
            context = below.context_class(below, parent=context, info_name=word)
    return None


def test_commands_exist():
    root = command_tree()

    def check(code: markdown.Code) -> Iterator[str]:
        for found in COMMAND.finditer(code.text):
            if problem := wrong_command(root, found["rest"]):
                yield problem

    assert problems_in_pages(check) == []


def setting_exists(dotted: str) -> bool:
    """True for `section.key` and `route.match.keyword`."""
    model = Settings
    for name in dotted.split("."):
        field = model.model_fields.get(name) if hasattr(model, "model_fields") else None
        if field is None:
            return False
        arguments = getattr(field.annotation, "__args__", ())
        model = next((a for a in (field.annotation, *arguments) if hasattr(a, "model_fields")), str)
    return True


def is_code(dotted: str) -> bool:
    """True when the name is a module, or something in one: `gateway.config`, `adapters.types.Stage`."""
    parts = dotted.split(".")
    return any(
        (ROOT / Path(*parts[:n])).is_dir() or (ROOT / Path(*parts[:n])).with_suffix(".py").exists()
        for n in range(2, len(parts) + 1)
    )


def test_settings_exist(tmp_path):
    sections = [name for name, field in Settings.model_fields.items()]
    dotted = re.compile(rf"(?<![\w./@-])(?:{'|'.join(sections)})(?:\.[a-z_]+)+(?![\w/(-])")
    variable = re.compile(rf"\b{ENV_PREFIX}[A-Z_]+\b")
    readers = (ROOT / "Makefile", *(ROOT / path for path in tree.python_files("gateway", "tests")))
    sources = "".join(path.read_text() for path in readers)

    def check(code: markdown.Code) -> Iterator[str]:
        if code.language == "toml" and set(tomllib.loads(code.text)) <= set(sections):
            (path := tmp_path / "understudy.toml").write_text(code.text)
            load(Settings, path, {})
        elif code.language not in ("python", "json"):
            for name in dotted.findall(code.text):
                if not (setting_exists(name) or is_code(name) or name.endswith((".py", ".toml", ".md", ".json"))):
                    yield f"no setting {name}"
        for name in variable.findall(code.text):
            key = name.removeprefix(ENV_PREFIX).removesuffix("_FILE").lower().replace("__", ".")
            if not (name in sources or setting_exists(key) or key == "section.key"):
                yield f"nothing reads {name}"

    assert problems_in_pages(check) == []


def test_metrics_exist():
    metrics = [value for value in vars(conventions).values() if isinstance(value, conventions.Metric)]
    assert metrics
    exported = {metric.full_name for metric in metrics if metric.since != conventions.PLANNED}
    named = re.compile(rf"\b{conventions.PREFIX}[a-z_]+\b")

    def check(code: markdown.Code) -> Iterator[str]:
        if code.where.startswith("docs/metrics.md"):  # the generated list, which marks what is planned
            return
        for name in named.findall(code.text):
            if re.sub(r"_(bucket|sum|count)$", "", name) not in exported and name not in exported:
                yield f"no metric {name} is exported"

    assert problems_in_pages(check) == []


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    def check(code: markdown.Code) -> Iterator[str]:
        named = re.findall(r"(?:^|[\s;&])make ([a-z-]+)", code.text)
        yield from (f"no make target {name}" for name in named if name not in targets)

    assert problems_in_pages(check) == []


def test_links_lead_somewhere():
    broken = []
    for page in markdown.pages():
        targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        files = [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]
        broken += [f"{page.relative_to(ROOT)}: {name}" for name in files if not (page.parent / name).exists()]
    assert broken == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("serve -c FILE", None),
        ("serv -c FILE", "has no command 'serv'"),
        ("serve --colour blue", "has no option --colour"),
        ("route set NAME VERSION", None),
        ("route sett NAME", "has no command 'sett'"),
    ],
)
def test_wrong_commands_are_noticed(text, problem):
    found = wrong_command(command_tree(), text)
    assert found is None if problem is None else found is not None and problem in found


def test_wrong_settings_are_noticed():
    assert setting_exists("engine.max_loras") and setting_exists("route.match.keyword")
    assert not setting_exists("engine.max_lora") and not setting_exists("engine.max_loras.x")
    assert is_code("gateway.config") and not is_code("gateway.prot")
