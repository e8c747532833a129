# The runtime's own default is Python 3.14; dbt-core 1.11 supports up to 3.13.
FROM astrocrpublic.azurecr.io/runtime:3.3-8-python-3.12

# The settings that hold wherever the project runs: `python -m local` reads these lines too, so
# keep each to a line of its own, as `ENV KEY=value`.
ENV AIRFLOW__CORE__LOAD_EXAMPLES=False
ENV AIRFLOW__COSMOS__ENABLE_TELEMETRY=False
# It writes to Airflow once more per dbt node: on a small machine that took longer than dbt itself.
ENV AIRFLOW__COSMOS__ENABLE_WATCHER_RELIABLE_RETRY=False
# Airflow 3 has no other way; unset, every task warns that it is used.
ENV AIRFLOW__COSMOS__USE_DATASET_AIRFLOW3_URI_STANDARD=True
# A log is no terminal.
ENV DBT_USE_COLORS=False
# After an edit in dbt/ Cosmos asks `dbt ls` while it parses a DAG file. On two busy cores that
# took 29 s; the defaults give up after 30 and 50.
ENV AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=120
ENV AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT=150
# When a task's process ends, its supervisor may notice only at its next heartbeat: with the default
# of 5 s that held up every third task.
ENV AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL=1
# With the default of 1 s each layer of models waits for the scheduler to look again: that made 18 s
# of the sample's 16. The price is that it looks five times a second while nothing runs, too.
ENV AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME=0.2

# Unless it finds a manifest younger than the project's files. `dbt parse` makes it without a
# database, for the target that include/dbt_config.py names. The copy is for `astro dev start`,
# which mounts your dbt/ over the image's.
RUN set -eu; \
    mkdir dbt_docs manifests; \
    for file in dbt/*/dbt_project.yml; do ( \
      cd "${file%/*}"; \
      if [ -f packages.yml ] || [ -f dependencies.yml ]; then dbt --log-level-file none deps; fi; \
      dbt --log-level-file none parse --profile "${PWD##*/}" --target prod; \
      cp target/manifest.json "$AIRFLOW_HOME/manifests/${PWD##*/}.json" \
    ); done
