"""The repository's Python files and what can be read off them without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("adapters", "monitors", "gateway", "trainer")
# Alembic runs these itself; they are scripts, not modules.
MIGRATION_SCRIPTS = ("adapters/migrations/env.py", "adapters/migrations/versions/")


def python_files(*folders: str) -> list[Path]:
    """Every .py file below `folders`, relative to the root, sorted."""
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def modules(*packages: str) -> list[str]:
    """Dotted names of the modules of `packages` (without __main__ and migration scripts)."""
    files = [path for path in python_files(*packages) if not path.as_posix().startswith(MIGRATION_SCRIPTS)]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    return [name for name in names if not name.endswith("__main__")]


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file given relative to the root."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


_CONTAINERS = {"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray", "array", "Lock"}
_MUTATORS = {"append", "add", "update", "setdefault", "pop", "popleft", "clear", "extend", "insert", "remove"}


def mutable_globals(tree: ast.Module) -> list[str]:
    """Module-level names that hold state: containers that are empty at first or changed later, and `global` names.

    A filled table in CAPITALS that nothing in its module changes is a constant.
    """
    changed = _changed_names(tree)
    found = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = {target.id for target in targets if isinstance(target, ast.Name)} - {"__all__"}
            found |= {name for name in names if _is_state(name, statement.value, changed)}
    return sorted(found)


def _changed_names(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        owner = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            owner = node.func.value
        if isinstance(owner, ast.Name):
            names.add(owner.id)
    return names


def _is_state(name: str, value: ast.expr, changed: set[str]) -> bool:
    if isinstance(value, ast.Call):
        called = value.func
        called_name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        filled_constant = bool(value.args) and name.isupper() and name not in changed
        return called_name in _CONTAINERS and not filled_constant
    if isinstance(value, ast.ListComp | ast.DictComp | ast.SetComp):
        return not name.isupper() or name in changed
    if isinstance(value, ast.List | ast.Set | ast.Dict):
        empty = not (value.keys if isinstance(value, ast.Dict) else value.elts)
        return empty or not name.isupper() or name in changed
    return False
