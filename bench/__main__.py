"""The command behind `make bench`."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

# The benchmark has its own folder and ports, so it can run beside `make start`.
HOME = Path(__file__).resolve().parents[1] / ".bench"


def main() -> None:
    if sys.platform != "linux":
        sys.exit("error: the benchmark reads Linux's /proc.")
    # The modules that are imported below read these variables.
    os.environ |= {
        "LOCAL_HOME": str(HOME),
        "AIRFLOW_HOME": str(HOME / "airflow"),
        "DBT_TARGET": "prod",
        "PORT": os.environ.get("PORT") or "8090",
        "WAREHOUSE_PORT": os.environ.get("WAREHOUSE_PORT") or "5443",
    }
    # The first variable makes every import slower. The second names a warehouse that the benchmark
    # would empty.
    for name in ("PYTHONDONTWRITEBYTECODE", "WAREHOUSE_URL"):
        os.environ.pop(name, None)
    # The handler lets all processes end with this one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from bench import compare, report
    from bench.plan import PLAN, QUICK
    from local.settings import Failure

    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--quick", action="store_true", help="run every way once, with few models")
    parser.add_argument("--row", nargs="+", metavar="NAME", help="CASE/WAY, or all ways of a CASE")
    parser.add_argument("--limit", type=float, default=1200, help="seconds that a run may take")
    parser.add_argument("--documents", action="store_true", help="generate them, measure nothing")
    args = parser.parse_args()
    plan = QUICK if args.quick else PLAN
    rows = [row for row in plan if not args.row or {row.name, row.case.name} & {*args.row}]
    file = report.RESULTS
    if args.quick or (args.row and not compare.fits(file)):
        file = HOME / ("quick.json" if args.quick else "rows.json")
    if not rows:
        parser.error(f"No such row. There are: {', '.join(row.name for row in plan)}.")
    try:
        if not args.documents:
            compare.compare(rows, file, args.limit)
        results = json.loads(file.read_text())
        print(report.page(results))
        if file == report.RESULTS:
            for path, text in report.documents(results).items():
                path.write_text(text)
    except (Failure, FileNotFoundError) as failure:
        sys.exit(f"error: {failure}")
    except KeyboardInterrupt:
        sys.exit(f"Interrupted and stopped. What was measured is in {file}.")
    runs = {row.name: results["rows"][row.name] for row in rows if row.name in results["rows"]}
    if failures := [f"{n} failed: {row['failure']}" for n, row in runs.items() if row["failure"]]:
        sys.exit(f"error: {'; '.join(failures)}")


if __name__ == "__main__":
    main()
