{#- Overrides the macro of dbt-postgres and adds an advisory lock. If two transactions run
    `create schema if not exists` at the same time, one of them fails with a duplicate key error.
    This happens when two dbt processes start on an empty database. The lock ends with the
    transaction, which dbt commits right after this macro. -#}
{% macro postgres__create_schema(relation) -%}
    {%- if relation.database -%}
        {{ adapter.verify_database(relation.database) }}
    {%- endif -%}
    {%- call statement('create_schema') -%}
        select pg_advisory_xact_lock(hashtext('create schema'));
        create schema if not exists {{ relation.without_identifier().include(database=false) }}
    {%- endcall -%}
{%- endmacro %}
