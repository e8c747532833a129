"""What CI does can be done in a clean clone, and Renovate finds the pins that no tool knows."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.conftest import OWN, ROOT

if not (ROOT / ".git").exists():
    pytest.skip("the image holds none of these files", allow_module_level=True)

WORKFLOWS = ROOT / ".github" / "workflows"
# Variables of the make that runs the tests. A make that a test starts must not inherit them.
OF_MAKE = {"ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "NO_SKIPS"}


def steps(workflow: Path) -> Iterator[str]:
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        for step in job.get("steps", []):
            if "run" in step:
                yield step["run"]


def scripts(gitlab: Path) -> Iterator[str]:
    if not gitlab.exists():
        return
    for job in yaml.safe_load(gitlab.read_text()).values():
        if isinstance(job, dict):
            yield from job.get("script", [])


def test_each_make_target_of_a_workflow_exists():
    named = [line for workflow in WORKFLOWS.glob("*.yml") for line in steps(workflow)]
    named += scripts(ROOT / ".gitlab-ci.yml")
    targets = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(named)))
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"lint", "test"} <= targets <= set(known)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_step_of_the_check_workflow_succeeds_in_a_clean_clone(clone):
    """Run one file of tests in `make test`, because this test is itself a part of `make test`."""
    # The clone uses this environment, and installs none. The Makefile only takes one whose file
    # `activate` has the path of the clone, and would replace any other.
    venv, own = clone / ".local" / "venv", ("bin", "activate", "installed")
    (venv / "bin").mkdir(parents=True)
    for path in (*Path(sys.prefix).iterdir(), *Path(sys.prefix, "bin").iterdir()):
        if path.name not in own:
            (venv / path.relative_to(sys.prefix)).symlink_to(path)
    (venv / "bin" / "activate").write_text(str(venv))
    (venv / "installed").touch()
    unwanted = OF_MAKE | {*OWN} - {"PATH"}
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in unwanted and not name.startswith("PYTEST")
    }
    check = clone / ".github" / "workflows" / "check.yml"
    # A fork that uses another CI service may have deleted the file.
    found = list(steps(check)) if check.exists() else ["make lint", "make test"]
    assert "make test" in found
    for step in found:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", step],
            cwd=clone,
            env={**inherited, "ARGS": "tests/test_versions.py"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{step}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert "Installing into" not in done.stdout
        assert "resource_tracker" not in done.stdout + done.stderr


@pytest.fixture
def index():
    """The URL of a server that answers like OSV, and its vulnerabilities by package."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": known.get(asked["package"]["name"], [])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    known = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", known
        server.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_audit_names_a_vulnerability_and_fails_without_an_answer(clone, index):
    """This test needs PyPI, from which pre-commit installs the hook."""
    url, known = index
    # Short locks, because the audit sends one request for each package.
    (clone / "requirements-dev.txt").write_text("jinja2==3.1.6\nmarkupsafe==3.0.3\n")
    (clone / ".ci" / "template-requirements.txt").write_text("click==8.3.1\n")

    def audit(url: str) -> subprocess.CompletedProcess:
        own = {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": url}
        venv = [f"VENV={sys.prefix}", f"--old-file={sys.prefix}/installed"]
        inherited = {k: v for k, v in os.environ.items() if k not in OF_MAKE}
        return subprocess.run(
            ["make", *venv, "audit"],
            cwd=clone,
            env={**inherited, **own},
            capture_output=True,
            text=True,
        )

    assert audit(url).returncode == 0
    listed = json.loads((clone / ".local" / "sbom.json").read_text())["components"]
    assert [(p["name"], p["version"]) for p in listed] == [
        ("jinja2", "3.1.6"),
        ("markupsafe", "3.0.3"),
    ]

    for package in ("jinja2", "click"):
        affected = [{"package": {"name": package, "ecosystem": "PyPI"}, "ranges": []}]
        known.clear()
        known[package] = [{"id": f"PYSEC-2999-{package}", "affected": affected}]
        found = audit(url)
        assert found.returncode != 0
        assert f"PYSEC-2999-{package}" in found.stdout

    alone = audit("http://127.0.0.1:1")
    assert alone.returncode != 0
    assert "error: PyPI did not answer: " in alone.stdout
    assert "Traceback" not in alone.stdout


def test_renovate_finds_what_the_hooks_install_and_the_runtimes():
    renovate = json.loads((ROOT / ".github" / "renovate.json").read_text())
    found = {}
    for manager in renovate["customManagers"]:
        (files,), (pattern,) = manager["managerFilePatterns"], manager["matchStrings"]
        for path in (ROOT / ".pre-commit-config.yaml", *sorted((ROOT / "deploy").iterdir())):
            if re.search(files.strip("/"), str(path.relative_to(ROOT))):
                pins = re.finditer(pattern.replace("(?<", "(?P<"), path.read_text())
                found.setdefault(path.name, []).extend(pin.groupdict() for pin in pins)

    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    installed = {pin for hook in hooks for pin in hook.get("additional_dependencies", [])}
    pins = found.pop(".pre-commit-config.yaml")
    assert {f"{pin['depName']}=={pin['currentValue']}" for pin in pins} == installed

    (rule,) = [r for r in renovate["packageRules"] if "versioning" in r]
    versioning = rule["versioning"].removeprefix("regex:").replace("(?<", "(?P<")
    image, tag = re.search(r"^FROM (\S+):(\S+)$", (ROOT / "Dockerfile").read_text(), re.M).groups()
    assert rule["matchPackageNames"] == [image]
    assert re.search(versioning, tag)["compatibility"]
    assert found
    for runtimes in found.values():
        assert [bool(re.search(versioning, pin["currentValue"])) for pin in runtimes] == [True]
