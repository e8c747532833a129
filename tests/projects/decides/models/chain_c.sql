select {{ unless_broken('chain_c') }} as id from {{ ref('chain_b') }}
