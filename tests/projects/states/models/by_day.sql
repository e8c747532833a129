{{ config(
    materialized='incremental', incremental_strategy='microbatch', event_time='day', batch_size='day',
    begin='2026-01-01', on_schema_change='fail', contract={'enforced': true}
) }}
with days as (select day, n from {{ source('raw_states', 'days') }})

-- A day that is broken fails where it is inserted: its old rows have been deleted by then.
select
    day,
    n * {{ unless_broken('by_day') }} as n,
    case
        when not exists (
            select 1 from raw_states.broken where node = to_char(days.day, 'YYYY-MM-DD')
        ) then n
    end as checked
from days
