select id * {{ unless_broken('c') }} as id from {{ source('raw_states', 'events') }}
