"""Run `dbt build` in this process for each line that comes in, with what it has parsed kept.

It runs in the environment of dbt alone. One build goes before: what it loads stays too.
"""

import sys

from dbt.cli.main import dbtRunner

words = sys.argv[1:]
# Only answers go to the standard output.
answers, sys.stdout = sys.stdout, sys.stderr
project = dbtRunner().invoke(["parse", *words]).result
while True:
    built = dbtRunner(manifest=project).invoke(["build", *words])
    print("success" if built.success else "failed", file=answers, flush=True)
    if not sys.stdin.readline():
        break
