select
    customer_id,
    customer_name,
    email
from {{ ref('stg_customers') }}
