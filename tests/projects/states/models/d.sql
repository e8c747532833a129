select b.id * {{ unless_broken('d') }} as id from {{ ref('b') }} as b join {{ ref('c') }} as c on b.id = c.id
