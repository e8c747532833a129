select compared.id
from {{ ref('compared') }} as compared
inner join {{ ref('against') }} as against on compared.id = against.id
where {{ unless_broken('compare') }} = 0
