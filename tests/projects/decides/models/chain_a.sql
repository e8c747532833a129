select {{ unless_broken('chain_a') }} as id
