{{ config(
    materialized='incremental',
    incremental_strategy='microbatch',
    unique_key='ordered_on',
    event_time='ordered_on',
    begin='2026-01-01',
    batch_size='day',
    lookback=0
) }}

select
    ordered_at::date as ordered_on,
    count(*) as orders,
    sum(amount) as amount
from {{ ref('stg_orders') }}
group by 1
