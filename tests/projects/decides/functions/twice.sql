{% set broken %}
    select 1 from raw_states.broken
    where node = 'twice' and fails and coalesce(nextval(failures) = 1, true)
{% endset %}
{% if execute and run_query(broken).rows %}
    {{ exceptions.raise_compiler_error("twice is broken") }}
{% endif %}
select value * 2
