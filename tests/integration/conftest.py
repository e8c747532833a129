"""These tests look at the shared Airflow, which `make start` has started."""

import pytest


@pytest.fixture(scope="session")
def warehouse(running_warehouse):
    return running_warehouse
