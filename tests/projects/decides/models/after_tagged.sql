select * from {{ ref('tagged') }}
