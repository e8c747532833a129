"""These tests look at the shared Airflow, which `make start` has started."""

import pytest


@pytest.fixture(scope="module")
def warehouse(running_warehouse):
    return running_warehouse
