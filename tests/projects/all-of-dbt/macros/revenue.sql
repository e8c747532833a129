{#- The macro has the name of the model that calls the macro. -#}
{% macro revenue(column) -%}
    coalesce(sum({{ column }}), 0)
{%- endmacro %}
