{% macro is_broken(node) -%}
    exists (select 1 from raw_states.broken where node = '{{ node }}' and fails)
{%- endmacro %}

{#- Returns 1 after the seconds in raw_states.broken, or divides by zero if the node fails. -#}
{% macro unless_broken(node) -%}
    (
        select 1 / coalesce(min(case when fails then 0 else 1 end), 1)
        from (
            select fails and coalesce(nextval(failures) = 1, true) as fails, pg_sleep(seconds)
            from raw_states.broken where node = '{{ node }}'
        ) as broken
    )
{%- endmacro %}
