# The runtime's own default is Python 3.14; dbt-core 1.11 supports up to 3.13.
FROM astrocrpublic.azurecr.io/runtime:3.3-8-python-3.12

# The settings that hold wherever the project runs: `python -m local` reads these lines too, so
# keep each to a line of its own, as `ENV KEY=value`.
ENV AIRFLOW__CORE__LOAD_EXAMPLES=False
ENV AIRFLOW__COSMOS__ENABLE_TELEMETRY=False
# Both write to Airflow once per dbt node: on a small machine that took longer than dbt itself.
ENV AIRFLOW__COSMOS__UPLOAD_SQL_TO_XCOM=False
ENV AIRFLOW__COSMOS__ENABLE_WATCHER_RELIABLE_RETRY=False
# Airflow 3 has no other way; unset, every task warns that it is used.
ENV AIRFLOW__COSMOS__USE_DATASET_AIRFLOW3_URI_STANDARD=True

# With a manifest Cosmos runs no dbt to parse a DAG file. `dbt parse` reaches no database, and
# comes after the runtime's own `COPY . .`, so that no file of a project is younger than it.
# The target is the one that include/dbt_config.py names.
RUN set -eu; \
    for file in dbt/*/dbt_project.yml; do ( \
      cd "${file%/*}"; \
      if [ -f packages.yml ] || [ -f dependencies.yml ]; then dbt --log-level-file none deps; fi; \
      dbt --log-level-file none parse --target prod \
    ); done
