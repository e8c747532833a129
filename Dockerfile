# The runtime's own default is Python 3.14; dbt-core 1.12 supports up to 3.13.
FROM astrocrpublic.azurecr.io/runtime:3.3-8-python-3.12

# The settings that hold wherever the project runs: `python -m local` reads these lines too, so
# keep each to a line of its own, as `ENV KEY=value`.
ENV AIRFLOW__CORE__LOAD_EXAMPLES=False
# dbt's target, which decides where a deployment writes: prod to schemas named after the project,
# any other to `<target>_<project>`. A deployment's own variable wins.
ENV DBT_TARGET=prod
# From Airflow 3.4 on, which would else make a run for each event of an asset: those that wait for
# a DAG start it once, as before.
ENV AIRFLOW__SCHEDULER__BATCH_ASSET_EVENTS=True
ENV AIRFLOW__COSMOS__ENABLE_TELEMETRY=False
# Airflow 3 has no other way; unset, every task warns that it is used.
ENV AIRFLOW__COSMOS__USE_DATASET_AIRFLOW3_URI_STANDARD=True
# What is made from the dbt projects. Cosmos's default is in /tmp, where it is whose comes first.
ENV AIRFLOW__COSMOS__CACHE_DIR=/usr/local/airflow/cosmos_cache
# Each process that reads a DAG file would write the selectors of its project to a Variable.
ENV AIRFLOW__COSMOS__ENABLE_CACHE_DBT_YAML_SELECTORS=False
# A log is no terminal.
ENV DBT_USE_COLORS=False
# Cosmos runs dbt in a temporary folder: nobody could read the file that dbt logs into there.
ENV DBT_LOG_LEVEL_FILE=none
# After an edit in dbt/ a DAG file runs `dbt parse` first. The defaults are 30 and 50 s.
ENV AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=120
ENV AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT=150

# The DAG files find their dbt projects parsed and with packages. That needs no database, as long as
# Cosmos keeps what it parses for a DAG without cosmos_args out of Airflow's variables.
RUN AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS=False python -m include.dbt_build && mkdir dbt_docs
