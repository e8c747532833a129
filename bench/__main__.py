"""The command behind `make bench`."""

import argparse
import os
import sys
from pathlib import Path

# Services apart from those of `make start`.
HOME = Path(__file__).resolve().parents[1] / ".bench"
RUNS = 3
TARGET = "prod"


def main() -> None:
    if sys.platform != "linux":
        sys.exit("error: the benchmark reads Linux's /proc.")
    # Before local/settings.py and include/target.py are imported, which read them.
    os.environ |= {
        "LOCAL_HOME": str(HOME),
        # Every way builds the target `prod`, and all processes have to agree on it.
        "DBT_TARGET": TARGET,
        "PORT": os.environ.get("PORT") or "8090",
        "WAREHOUSE_PORT": os.environ.get("WAREHOUSE_PORT") or "5443",
    }
    # With it every process would compile what it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    from bench import picture, report
    from bench.compare import compare
    from bench.projects import NAMES
    from bench.ways import WAYS
    from local.settings import ROOT, Failure

    ways = {way.name: way for way in WAYS}
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--quick", action="store_true", help="one run each, of the sample only")
    parser.add_argument("--limit", type=float, default=600, help="seconds that a run may take")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each way on each project")
    parser.add_argument("--project", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--way", nargs="+", choices=ways, help="all; with --quick, not celery")
    args = parser.parse_args()
    if args.quick:
        file, names, runs = HOME / "quick.json", NAMES[:1], 1
        file.unlink(missing_ok=True)
    else:
        file, names, runs = HOME / "results.json", args.project, args.runs
    chosen = args.way or [name for name in ways if not (args.quick and name == "celery")]
    try:
        results = compare(file, names, [ways[name] for name in chosen], runs, args.limit)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(f"Interrupted and stopped. What was measured is in {file}.")
    print(report.table(results))
    if not args.quick:
        picture.draw(results, ROOT / "docs" / "images" / "bench.png")
        report.write(results, ROOT / "docs" / "benchmark.md")
    if failures := report.failures(results, names, chosen):
        sys.exit(f"error: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
