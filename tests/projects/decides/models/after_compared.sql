select * from {{ ref('compared') }}
