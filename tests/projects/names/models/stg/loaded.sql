select * from {{ source('raw_states', 'all events') }}
