{%- if env_var('STATES_PARSE', 'good') == 'bad' %}{{ exceptions.raise_compiler_error('f is not good') }}{% endif %}
select id * {{ unless_broken('f') }} as id from {{ ref('letters') }}
