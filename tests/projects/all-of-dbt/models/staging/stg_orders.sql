{{ config(event_time='ordered_at') }}

select
    id as order_id,
    customer_id,
    ordered_at,
    {{ small.cents_to_dollars('amount_cents') }} as amount
from {{ ref('raw_orders') }}
where amount_cents >= {{ var('smallest_order_cents') }}
