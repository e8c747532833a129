{%- if env_var('STATES_PARSE', 'succeeds') == 'fails' %}{{ exceptions.raise_compiler_error('f cannot be parsed') }}{% endif %}
select id * {{ unless_broken('f') }} as id from {{ ref('letters') }}
