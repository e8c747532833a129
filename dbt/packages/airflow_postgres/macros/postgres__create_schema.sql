{#- dbt's own version, behind a lock: `create schema if not exists` in two transactions at once
    fails in one of them with a duplicate key, and two DAGs do start at once on an empty database.
    The lock ends with the transaction, which dbt commits right after this macro. -#}
{% macro postgres__create_schema(relation) -%}
    {%- if relation.database -%}
        {{ adapter.verify_database(relation.database) }}
    {%- endif -%}
    {%- call statement('create_schema') -%}
        select pg_advisory_xact_lock(hashtext('create schema'));
        create schema if not exists {{ relation.without_identifier().include(database=false) }}
    {%- endcall -%}
{%- endmacro %}
