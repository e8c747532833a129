{% if execute and run_query("select 1 from raw_states.broken where node = 'twice' and fails").rows %}
    {{ exceptions.raise_compiler_error("twice is broken") }}
{% endif %}
select value * 2
