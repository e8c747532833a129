{#- Overrides dbt's default, `create or replace table ... clone ...`, which Postgres does not have.
    This macro copies the table with its indexes and constraints. It commits because dbt runs it as
    one statement and does not commit afterwards. -#}
{% macro postgres__create_or_replace_clone(this_relation, defer_relation) %}
    drop table if exists {{ this_relation }} cascade;
    create table {{ this_relation }} (like {{ defer_relation }} including all);
    insert into {{ this_relation }} select * from {{ defer_relation }};
    commit
{% endmacro %}
