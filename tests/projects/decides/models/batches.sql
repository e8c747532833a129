{{ config(
    materialized='incremental', incremental_strategy='microbatch', unique_key='day',
    event_time='day', batch_size='year', begin='2022-01-01'
) }}
{% set year = (model.batch.id | string)[:4] if model.batch else '2022' %}
select make_date({{ year }}, 1, 1)::timestamp as day, {{ unless_broken(year) }} as n
