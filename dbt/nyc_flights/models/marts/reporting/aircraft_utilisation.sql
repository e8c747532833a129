with

flights as (

    select * from {{ ref('fct_flights') }}

),

aircraft as (

    select * from {{ ref('dim_aircraft') }}

),

flown as (

    select
        tail_number,
        min(flight_date) as first_flight_date,
        max(flight_date) as last_flight_date,
        count(distinct flight_date) as days_flown,
        count(*) as departures,
        round(sum(air_time_minutes) / 60.0, 1) as air_time_hours,
        sum(distance_miles) filter (where status = 'completed') as distance_miles

    from flights

    where tail_number is not null and status != 'cancelled'

    group by tail_number

),

final as (

    select
        flown.tail_number,
        aircraft.manufacturer,
        aircraft.model,
        aircraft.seat_count,
        flown.first_flight_date,
        flown.last_flight_date,
        flown.days_flown,
        flown.departures,
        round(1.0 * flown.departures / flown.days_flown, 2) as departures_per_day_flown,
        coalesce(flown.air_time_hours, 0) as air_time_hours,
        coalesce(flown.distance_miles, 0) as distance_miles

    from flown

    left join aircraft
        on flown.tail_number = aircraft.tail_number

)

select * from final
