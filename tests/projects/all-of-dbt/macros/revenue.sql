{#- Named like the model that calls it. -#}
{% macro revenue(column) -%}
    coalesce(sum({{ column }}), 0)
{%- endmacro %}
