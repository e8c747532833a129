{#- Fails if it is told to, and if dbt has built a model in this command. -#}
{% macro check_models(results) -%}
    {%- set broken = run_query("select 1 where " ~ is_broken("end_hook_of_models")) -%}
    {%- if broken | length and results | selectattr("node.resource_type", "eq", "model") | list -%}
        {{ exceptions.raise_compiler_error("a model is not right") }}
    {%- endif -%}
{%- endmacro %}
