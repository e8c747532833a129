{#- Not `not (...)`: an expression that is null counts as a failure too. -#}
{% test holds(model, expression) %}
select *
from {{ model }}
where ({{ expression }}) is not true
{% endtest %}
