{#- Catches a day that was loaded again and not built again, and rows that a rebuild left behind.
    Days never built don't count: a developer's schema has only some of them. -#}
with

built as (

    select
        flight_date,
        count(*) as flights

    from {{ ref('fct_flights') }}

    group by flight_date

),

loaded as (

    select
        flight_date,
        count(*) as flights

    from {{ ref('stg_flights') }}

    group by flight_date

)

select
    built.flight_date,
    built.flights as flights_built,
    coalesce(loaded.flights, 0) as flights_loaded

from built

left join loaded
    on built.flight_date = loaded.flight_date

where built.flights != coalesce(loaded.flights, 0)
