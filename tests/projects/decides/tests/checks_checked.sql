select * from {{ ref('checked') }} where {{ unless_broken('check') }} = 0
