select max(id) from {{ ref('chain_a') }}
