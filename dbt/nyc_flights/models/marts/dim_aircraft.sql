with

planes as (

    select * from {{ ref('stg_planes') }}

),

flights as (

    select * from {{ ref('stg_flights') }}

),

flown as (

    select distinct tail_number
    from flights
    where tail_number is not null

),

final as (

    select
        tail_number,
        planes.tail_number is not null as is_registered,
        planes.manufacturer,
        planes.model,
        planes.aircraft_type,
        planes.engine_type,
        planes.engine_count,
        planes.seat_count,
        planes.built_year

    from flown

    full join planes using (tail_number)

)

select * from final
