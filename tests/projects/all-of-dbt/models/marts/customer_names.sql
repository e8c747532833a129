{{ config(alias='names', schema='marketing') }}

select distinct customer_name
from {{ ref('customers', v=1) }}
