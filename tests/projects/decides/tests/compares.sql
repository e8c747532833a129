select compared.id
from {{ ref('compared') }} as compared
inner join {{ ref('chain_a') }} as chain_a on compared.id = chain_a.id
where {{ unless_broken('compare') }} = 0
