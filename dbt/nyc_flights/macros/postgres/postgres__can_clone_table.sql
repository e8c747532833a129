{#- Overrides dbt's default, which returns false. `dbt clone` then creates a view on the original
    table, and the next `dbt build` of an incremental model replaces that view with a full build. -#}
{% macro postgres__can_clone_table() %}
    {{ return(true) }}
{% endmacro %}
