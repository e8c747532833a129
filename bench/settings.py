"""The settings of the runner for the benchmark, whose services are apart from `make start`."""

import os

from local.settings import Settings

SETTINGS = Settings.from_environment(os.environ)
