{#- For `dbt clone`, which by itself makes a view of a table on Postgres. -#}
{% macro postgres__can_clone_table() %}
    {{ return(true) }}
{% endmacro %}
