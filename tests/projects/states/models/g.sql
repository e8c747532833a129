select id * {{ unless_broken('g') }} as id from {{ ref('part') }}
