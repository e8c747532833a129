"""Reports what `make test-all` needs beside the virtual environment, and how to install it."""

import shutil
import sys

# Programs, of each group one, and the packages of Debian and Homebrew.
PROGRAMS = {
    ("chromium", "chromium-browser", "google-chrome"): ("chromium fonts-liberation", "chromium"),
    ("redis-server",): ("redis-server", "redis"),
    ("pgbouncer",): ("pgbouncer", "pgbouncer"),
}

missing = [packages for names, packages in PROGRAMS.items() if not any(map(shutil.which, names))]
if missing:
    debian, homebrew = (" ".join(names) for names in zip(*missing, strict=True))
    sys.exit(
        "error: the tests in a browser, with Celery and with PgBouncer need programs that are not "
        f"installed. On Debian: apt-get install {debian}. With Homebrew: brew install {homebrew}. "
        "`make test` runs all other tests."
    )
