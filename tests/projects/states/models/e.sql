select id * {{ unless_broken('e') }} + case when {{ is_broken('unit_e') }} then 1 else 0 end as id from {{ ref('d') }}
