with customers as (
    select * from {{ ref('customers') }}
),

orders as (
    select * from {{ ref('orders') }}
)

select
    customers.customer_id,
    customers.customer_name,
    orders.order_id,
    orders.amount
from customers
left join orders on customers.customer_id = orders.customer_id
