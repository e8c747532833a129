select
    customer_id,
    count(order_id) as orders,
    {{ revenue('amount') }}::numeric(12, 2) as revenue
from {{ ref('customer_orders') }}
group by customer_id
