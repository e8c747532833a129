"""The documents name what exists: links, make targets, files, settings, tests and arguments."""

import ast
import inspect
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, ROOT

if not HAS_POSTGRES:
    pytest.skip("the image holds none of these files", allow_module_level=True)

from airflow.configuration import retrieve_configuration_description
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseOperator
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig, settings
from cosmos.converter import DbtToAirflowConverter
from cosmos.operators.base import AbstractDbtBase, DbtBuildMixin
from cosmos.operators.local import AbstractDbtLocalBase, DbtBuildLocalOperator

from tests.dags.checks import problems
from tests.include.dbt_build import test_arguments as values

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / ".github").glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "local" / "adopted" / "README.md.txt",
    ]
)
# Release notes name files, targets and settings of their own version.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
# Tables, code blocks and generated parts do not count.
MAX_WORDS = {"README.md": 600, "how-it-works.md": 600, "CHANGELOG.md": 10_000}
MAX_WORDS_OF_A_PAGE = 1200

GENERATED_PART = re.compile(r"<!-- generated .*?-->.*?<!-- end .*?-->", re.DOTALL)
CODE_BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
FILE = re.compile(
    r"[\w./-]+/|(?:[\w-]*\.?[\w.-]+/)*[\w.-]*\.(?:md|py|toml|ya?ml|txt|json|sql|example)"
)
# Files of dbt, of a dbt project, of the machine, or of a measurement, which may not be there.
OTHER_FILES = re.compile(
    r"(?:manifest|run_results|sources)\.json|(?:packages|profiles|selectors|dbt_project)\.yml"
    r"|docs/benchmark\.json|\.env|\.(?:local|venv|bench)/.*|target/|/dbt_build/"
)
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9]")
# Variables of other tools.
OTHER_VARIABLES = {"UV_OVERRIDE", "DBT_ENV_SECRET_TOKEN"}
# Airflow looks for a connection there.
CONNECTION = "AIRFLOW_CONN_"


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def tracked_files() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


FILES = tracked_files()
CODE = "\n".join(
    (ROOT / name).read_text()
    for name in FILES
    if not name.endswith((".md", ".md.txt", ".gz", ".png", ".svg", ".csv"))
    and name not in ("requirements-dev.txt", "tests/test_docs.py")
)


def code_of(text: str) -> list[str]:
    """Return the code spans of a page, and the lines of its code blocks."""
    blocks = CODE_BLOCK.findall(text)
    lines = [line.strip() for block in blocks for line in block.splitlines()[1:-1]]
    return [*re.findall(r"`([^`\n]+)`", CODE_BLOCK.sub("", text)), *lines]


def words(text: str) -> int:
    for part in (GENERATED_PART, CODE_BLOCK, re.compile(r"^ *\|.*$", re.MULTILINE)):
        text = part.sub("", text)
    return sum(bool(re.search(r"\w", word)) for word in text.split())


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_a_page_is_short(page):
    assert words(page.read_text()) <= MAX_WORDS.get(page.name, MAX_WORDS_OF_A_PAGE)


def test_the_readme_is_short_with_everything_in_it():
    text = (ROOT / "README.md").read_text()
    assert sum(bool(re.search(r"\w", word)) for word in text.split()) <= MAX_WORDS["README.md"]


@pytest.mark.parametrize("page", PAGES, ids=id_of)
def test_each_relative_link_leads_to_a_file(page):
    # The template of a README is written to the root.
    folder = ROOT if page.suffix == ".txt" else page.parent
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    relative = [link for link in links if not re.match(r"\w+:", link)]
    assert [link for link in relative if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", CURRENT, ids=id_of)
def test_each_make_target_exists(page):
    makefiles = "".join(file.read_text() for file in [ROOT / "Makefile", *ROOT.glob("*.mk")])
    known = set(re.findall(r"^([a-z-]+):", makefiles, re.MULTILINE))
    named = {
        target
        for code in code_of(page.read_text())
        for target in re.findall(r"(?:^|&& |[A-Z_]+=\S+ )make ([a-z][a-z-]*)", code)
    }
    assert named - known == set()


@pytest.mark.parametrize("page", CURRENT, ids=id_of)
def test_each_file_exists(page):
    named = {code for code in code_of(page.read_text()) if FILE.fullmatch(code)}
    named = {name for name in named if not OTHER_FILES.fullmatch(name)}
    known = "".join(f"/{file}\n" for file in FILES)
    assert {name for name in named if f"/{name.removeprefix('../')}" not in known} == set()


@pytest.mark.parametrize("page", CURRENT, ids=id_of)
def test_each_setting_exists(page):
    text = page.read_text()
    described = retrieve_configuration_description(include_airflow=True, include_providers=True)
    known = {
        (section.lower(), option.lower())
        for section, content in described.items()
        for option in content["options"]
    }
    # Cosmos does not describe all of its settings.
    for names in re.findall(r'conf\.\w+\(\s*"(\w+)", "(\w+)"', inspect.getsource(settings) + CODE):
        known.add(names)
    named = {
        *re.findall(r"\[(\w+)\] (\w+)", text),
        *(
            (section.lower(), option.lower())
            for section, option in re.findall(r"\bAIRFLOW__([A-Z_]+?)__([A-Z_]+)\b", text)
        ),
    }
    assert named - known == set()


@pytest.mark.parametrize("page", CURRENT, ids=id_of)
def test_each_variable_is_read_by_something(page):
    named = {
        name
        for code in code_of(page.read_text())
        for name in VARIABLE.findall(code)
        if not name.startswith(("AIRFLOW__", CONNECTION))
    }
    assert {name for name in named - OTHER_VARIABLES if name not in CODE} == set()


@pytest.mark.parametrize("page", CURRENT, ids=id_of)
def test_each_import_of_an_example_exists(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    imports = [
        (node.module, alias.name)
        for block in blocks
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert [one for one in imports if not hasattr(import_module(one[0]), one[1])] == []


def test_the_example_of_a_dag_passes_the_checks_of_all_dags(projects, tmp_path):
    page = (ROOT / "docs" / "make-it-your-own.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "example.py").write_text(example.replace('"acme"', '"states"'))
    bag = DagBag(tmp_path, bundle_path=tmp_path)
    assert bag.import_errors == {}
    assert list(problems(bag.dags["states"], {"warehouse"})) == []


# Sections of docs/how-it-works.md, and the functions whose parameters each has.
SIGNATURES = {
    "DbtDag and DbtTaskGroup": (DbtToAirflowConverter,),
    "ProjectConfig": (ProjectConfig,),
    "ProfileConfig": (ProfileConfig,),
    "RenderConfig": (RenderConfig,),
    "ExecutionConfig": (ExecutionConfig,),
    "operator_args": (AbstractDbtBase, AbstractDbtLocalBase, DbtBuildMixin, DbtBuildLocalOperator),
}
# What the sections name beside these parameters.
OWN_ARGUMENTS = {"DbtDag and DbtTaskGroup": {"source_freshness", "run_options"}}


def rows_of(section: str) -> list[list[str]]:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    table = text.partition(f"### {section}\n")[2].partition("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return rows[2:]


def names_of(cell: str) -> set[str]:
    # A row can name examples of a kind of arguments.
    return set() if "such as" in cell else set(re.findall(r"`(\w+)`", cell))


@pytest.mark.parametrize("section", SIGNATURES)
def test_the_table_of_arguments_has_each_of_cosmos(section):
    parameters = {
        name
        for function in SIGNATURES[section]
        for name, parameter in inspect.signature(function.__init__).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    of_airflow = set(inspect.signature(BaseOperator.__init__).parameters)
    named = set().union(*(names_of(cell) for cell, _ in rows_of(section)))
    assert parameters - {"self", "task_id"} <= named
    assert named <= parameters | of_airflow | OWN_ARGUMENTS.get(section, set())


# The arguments of each section, with the values that other tests find honoured or refused.
VALUES = {
    "ProjectConfig": values.PROJECT,
    "ProfileConfig": values.PROFILE,
    "RenderConfig": values.RENDER,
    "ExecutionConfig": values.EXECUTION,
    "operator_args": values.OPERATOR | values.BASE,
}


@pytest.mark.parametrize("section", VALUES)
def test_the_table_of_arguments_names_those_that_are_refused(section):
    named = [names_of(cell) for cell, text in rows_of(section) if "refused" in text]
    assert set().union(*named) == {
        name
        for name, tested in VALUES[section].items()
        if any(isinstance(value, values.Refused) for value in tested or ())
    }


def test_each_situation_of_the_reliability_pages_has_its_tests():
    defined = {
        (name, test)
        for name in FILES
        if name.startswith("tests/") and name.endswith(".py")
        for test in re.findall(r"^def (test_\w+)\(", (ROOT / name).read_text(), re.MULTILINE)
    }
    missing, tests = [], 0
    for page in sorted((ROOT / "docs").glob("reliability*.md")):
        file = None
        for line in page.read_text().splitlines():
            if not line.startswith("| ") or line.startswith(("| situation", "| ---")):
                continue
            found = re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", line.split(" | ")[-1])
            missing += [] if found else [f"{page.name}: {line}"]
            for name, test in found:
                file = name or file
                tests += 1
                if (f"tests/{file}", test) not in defined:
                    missing.append(f"{page.name}: {file}::{test}")
    assert missing == []
    assert tests > 20
