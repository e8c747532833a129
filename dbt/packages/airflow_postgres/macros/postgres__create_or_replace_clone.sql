{#- A copy with the indexes and constraints, since Postgres has no clone that shares its rows.
    dbt takes a clone for one statement and commits nothing after it. -#}
{% macro postgres__create_or_replace_clone(this_relation, defer_relation) %}
    drop table if exists {{ this_relation }} cascade;
    create table {{ this_relation }} (like {{ defer_relation }} including all);
    insert into {{ this_relation }} select * from {{ defer_relation }};
    commit
{% endmacro %}
