{% macro is_broken(node) -%}
    exists (select 1 from raw_states.broken where node = '{{ node }}' and fails)
{%- endmacro %}

{#- One, after the seconds that raw_states.broken names, or a division by zero. -#}
{% macro unless_broken(node) -%}
    (
        select 1 / coalesce(min(case when fails then 0 else 1 end), 1)
        from (
            select fails, pg_sleep(seconds) from raw_states.broken where node = '{{ node }}'
        ) as broken
    )
{%- endmacro %}
