"""The project uses only what Cosmos, Airflow and dbt do not change without a release note."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = {"airflow", "cosmos", "dbt"}
FOLDERS = [ROOT / name for name in ("dags", "include", "plugins", "local")]
FILES = [file for folder in FOLDERS for file in sorted(folder.rglob("*.py"))]


def offences(source: str) -> Iterator[str]:
    """Yield each import of a private name, each use of one, and each assignment into a module."""
    tree = ast.parse(source)
    bound = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(f"{node.module}.{a.name}", a.asname or a.name) for a in node.names]
        for name, known_as in names:
            if name.split(".")[0] in LIBRARIES:
                bound.add((known_as or name).split(".")[0])
                if any(part.startswith("_") for part in name.split(".")):
                    yield f"{node.lineno}: imports {name}"

    def root(node: ast.expr) -> str | None:
        while isinstance(node, ast.Attribute):
            node = node.value
        return node.id if isinstance(node, ast.Name) else None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and root(node) in bound:
            if isinstance(node.ctx, ast.Store | ast.Del):
                yield f"{node.lineno}: assigns to {ast.unparse(node)}"
            elif node.attr.startswith("_") and not node.attr.endswith("__"):
                yield f"{node.lineno}: uses {ast.unparse(node)}"
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else None
        if called in ("setattr", "delattr") and root(node.args[0]) in bound:
            yield f"{node.lineno}: assigns by {ast.unparse(node)}"


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_only_public_names_are_used(file):
    assert list(offences(file.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "from cosmos.operators._watcher import base",
        "from airflow.models.dag import _private",
        "import cosmos.operators._watcher.base as base",
        "import cosmos.converter\ncosmos.converter.DbtGraph = 1",
        "from cosmos import settings\nsettings.enable_cache = False",
        "from cosmos import cache\ncache._copy_partial_parse_to_project()",
        "from cosmos import settings as s\nsetattr(s, 'enable_cache', False)",
        "def f():\n    from dbt.cli.main import dbtRunner\n    dbtRunner.invoke = None",
    ],
)
def test_the_check_can_fail(source):
    assert len(list(offences(source))) == 1
