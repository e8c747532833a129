{% test breaks_with(model, column_name, node) %}
    select {{ column_name }}, 'broken' as why from {{ model }} where {{ is_broken(node) }}
{% endtest %}
