{#- The archive writes a clock time as a number: 517 is 05:17, and 2400 is the midnight that ends
    the day, which `time` cannot hold but an interval can. -#}
{% macro hhmm_to_interval(column) -%}
    make_interval(hours => {{ column }} / 100, mins => {{ column }} % 100)
{%- endmacro %}
