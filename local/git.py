"""git commands, by default in the work tree of the repository."""

import os
import subprocess
from pathlib import Path

from local.settings import ROOT, Failure


def git(*words: str | Path, at: Path = ROOT) -> str:
    """Run a git command; return what it prints. A Failure has git's own message."""
    # By default git writes names with non-ASCII letters in quotes.
    command = ["git", "-c", "core.quotePath=false", *map(str, words)]
    # The line that shows the progress would hide a question for a password.
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    done = subprocess.run(command, cwd=at, env=env, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"git {words[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def require_no_changes() -> None:
    if git("status", "--porcelain", "--untracked-files=normal"):
        raise Failure("There are changes that are not committed: commit or stash them first.")
