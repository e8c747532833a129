"""`astro dev parse` and `astro deploy` run this file in the image: every DAG file can be imported.

The file that the CLI generates calls DagBag with an argument that Airflow 3.3 has removed. It also
mocks connections, variables and os.getenv, which no DAG file may need while it is parsed.
"""

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

PROJECT = Path(__file__).resolve().parents[1]


def test_every_dag_file_imports():
    allowed = (PROJECT / ".astro" / "dag_integrity_exceptions.txt").read_text().splitlines()
    # With the project as the bundle, import_errors has the same keys as that file: dags/<file>.
    bag = DagBag(PROJECT / "dags", bundle_path=PROJECT)
    errors = {file: error for file, error in bag.import_errors.items() if file not in allowed}
    if errors:
        pytest.fail("\n\n".join(f"{f}\n{e}" for f, e in errors.items()), pytrace=False)
    assert bag.dags, "no DAG in dags/"
