select id * {{ unless_broken('b') }} as id from {{ ref('a') }}
