select * from {{ ref('chain_a') }} where {{ unless_broken('check_chain_a') }} = 0
