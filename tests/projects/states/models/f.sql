{%- if env_var('STATES_PARSE', 'good') != 'good' %}{{ exceptions.raise_compiler_error('f is not good') }}{% endif %}
select id * {{ unless_broken('f') }} as id from {{ ref('letters') }}
