"""Makes a clone of the template a team's own repository: `make adopt`, which removes this file."""

from local.git import git
from local.projects import add, new_tree, report, require_name, write_template
from local.settings import ROOT, Failure, Settings
from local.update import remove_targets

TEMPLATE_NAME = "dbt-on-airflow"
# The files that contain the name of the template.
NAMED_FILES = ("pyproject.toml", ".astro/config.yaml", "deploy/prod.yaml")
CI_FILES = {"github": ".github/workflows", "gitlab": ".gitlab-ci.yml"}


def adopt(
    settings: Settings, name: str, source: str, ci: str, load: bool, parse_only: bool
) -> None:
    require_name(name)
    if ci not in (*CI_FILES, "none"):
        raise Failure(f"CI={ci} is not known: write CI=github, CI=gitlab or CI=none.")
    left_out = [path for kind, path in CI_FILES.items() if kind != ci]
    removed = [*settings.local_toml["sample"], *left_out]
    with new_tree() as tree:
        git("rm", "--quiet", "-r", "--ignore-unmatch", *removed, at=tree)
        remove_targets(tree / "Makefile", settings.local_toml["make_targets"])
        for path in NAMED_FILES:
            text = (tree / path).read_text()
            (tree / path).write_text(text.replace(TEMPLATE_NAME, name.replace("_", "-")))
        folder, findings = add(settings, tree, source, None if source else name, load, parse_only)
        needs = (findings.missing, findings.existing, findings.parse_error, findings.build_error)
        values = {
            "name": name,
            "left_out": "".join(f'\n    "{path}",' for path in left_out),
            "is_complete": str(not any(needs)).lower(),
        }
        for path in ("README.md", "local.toml"):
            write_template(tree / path, f"{path}.txt", folder.name, **values)
    # Python and dbt have generated files in the removed folders.
    git("clean", "--quiet", "-d", "-x", "--force", "--", *removed)
    # The next make target removes the packages that only the template needs.
    (ROOT / ".local" / "venv" / "installed").unlink(missing_ok=True)
    report(folder, findings)
