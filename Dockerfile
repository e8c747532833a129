# The default of the runtime is Python 3.14, and dbt-core 1.12 supports Python up to 3.13.
FROM astrocrpublic.azurecr.io/runtime:3.3-8-python-3.12

# The settings for every way to run the project. `python -m local` reads these lines too, so write
# each one on a line of its own, as `ENV KEY=value`.
ENV AIRFLOW__CORE__LOAD_EXAMPLES=False
# dbt's target, which decides where a deployment writes: prod to schemas named after the project,
# any other target to `<target>_<project>`. A variable of the deployment overrides it.
ENV DBT_TARGET=prod
# Airflow 3.4 would start a run for each event of an asset. With this setting all events that wait
# for a DAG start one run, as in Airflow 3.3.
ENV AIRFLOW__SCHEDULER__BATCH_ASSET_EVENTS=True
ENV AIRFLOW__COSMOS__ENABLE_TELEMETRY=False
# Airflow 3 supports no other URIs. Without this setting each task that emits asset events logs a
# warning.
ENV AIRFLOW__COSMOS__USE_DATASET_AIRFLOW3_URI_STANDARD=True
# The working directories of the dbt projects. Cosmos's default is a folder in /tmp, which belongs
# to the first user that creates it.
ENV AIRFLOW__COSMOS__CACHE_DIR=/usr/local/airflow/cosmos_cache
# Otherwise each process that parses a DAG file writes the selectors of its project to a Variable.
ENV AIRFLOW__COSMOS__ENABLE_CACHE_DBT_YAML_SELECTORS=False
# The logs of Airflow do not show colours.
ENV DBT_USE_COLORS=False
# Cosmos runs dbt in a temporary folder, so a log file in it could not be read later.
ENV DBT_LOG_LEVEL_FILE=none
# dbt 1.12 would read the .env file of the folder in which it starts, or of a folder above it. So the
# nodes of a project, and the variables of all later tasks, would depend on that folder.
ENV PYTHON_DOTENV_DISABLED=1
# After an edit in dbt/ the next parse of a DAG file runs `dbt parse`. The defaults of 30 and 50 s
# are too short for that.
ENV AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=120
ENV AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT=150

# Installs the packages of the dbt projects and parses them, so that no DAG file waits for dbt. There
# is no database yet, so DAGs of plain Cosmos must not write their cache to Airflow's Variables.
RUN AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS=False python -m include.dbt_build && mkdir dbt_docs
