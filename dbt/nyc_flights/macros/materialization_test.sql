{#- dbt's own, which then logs some of the rows that fail. -#}
{% materialization test, adapter='postgres' %}
    {% set relations = dbt.materialization_test_default() %}
    {% set outcome = load_result('main').table.rows[0] %}
    {% if outcome['should_warn'] or outcome['should_error'] %}
        {% set rows = run_query('select * from (' ~ sql ~ '\n) as failures limit 5') %}
        {% set lines = [] %}
        {% for row in rows.rows %}
            {% set values = [] %}
            {% for column, value in row.items() %}{% do values.append(column ~ '=' ~ value) %}{% endfor %}
            {% do lines.append('\n  ' ~ values | join(', ')) %}
        {% endfor %}
        {% do log('Failing rows, ' ~ lines | length ~ ' of ' ~ outcome['failures'] ~ ':' ~ lines | join(''), info=true) %}
    {% endif %}
    {{ return(relations) }}
{% endmaterialization %}
