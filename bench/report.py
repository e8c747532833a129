"""The results as a table, in the terminal and in docs/benchmark.md."""

from pathlib import Path

START, END = "<!-- results of make bench -->", "<!-- end of the results -->"
COLUMNS = {
    "times dbt build": "over_dbt_build",
    "CPU seconds": "cpu_seconds",
    "peak MB": "peak_mb",
    "parse": "parse_seconds",
    "first line": "first_line_seconds",
    "DAG kB": "dag_kb",
}


def table(results: dict) -> str:
    """Return the rows as a table of Markdown."""
    lines = [
        ["project", "way", "seconds", *COLUMNS],
        ["---", "---", "---:", *["---:"] * len(COLUMNS)],
        *(
            [
                row["project"],
                results["ways"][row["way"]],
                seconds(row),
                *("" if row.get(key) is None else str(row[key]) for key in COLUMNS.values()),
            ]
            for row in results["rows"]
        ),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(row: dict) -> str:
    """Return the median with the spread, and why there is none or not of all runs."""
    done = [s for s in row["wall_seconds"] if s is not None]
    parts = [str(row["median_seconds"])] if done else []
    if len(done) > 1:
        parts.append(f"({min(done)} to {max(done)})")
    if not row["ok"]:
        parts.append(f"**failed**: {row['reason']}")
    return " ".join(parts)


def failures(results: dict, names: list[str], ways: list[str]) -> list[str]:
    """Return a line for each way that did not run on a project, or that left a table out.

    How long a run took is never a failure, unless it was stopped at the limit.
    """
    rows = {(row["project"], row["way"]): row for row in results["rows"]}
    lines = []
    for name in names:
        for way in ways:
            row = rows.get((name, way), {"ok": False, "reason": "was not run"})
            if not row["ok"]:
                lines.append(f"{way} on {name} failed: {row['reason']}")
    return lines


def write(results: dict, file: Path) -> None:
    """Put the results between the two marks in the file."""
    machine = results["machine"]
    commits = ", ".join(sorted({row["commit"] for row in results["rows"]}))
    measured = (
        f"Measured on {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, at commit {commits}:"
    )
    figures = "\n".join(f"- `{name}`: {meaning}" for name, meaning in results["figures"].items())
    before, rest = file.read_text().split(START)
    _, after = rest.split(END)
    made = "\n\n".join([START, measured, table(results), figures, END])
    file.write_text(f"{before}{made}{after}")
