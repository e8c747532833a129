with

flights as (

    select * from {{ ref('fct_flights') }}

),

airports as (

    select * from {{ ref('dim_airports') }}

),

daily as (

    select
        origin_airport_code,
        flight_date,
        count(*) as flights,
        count(*) filter (where status = 'cancelled') as cancelled,
        count(*) filter (where departure_delay_minutes >= 15) as delayed_departures,
        count(*) filter (where departed_local::date > flight_date) as departures_after_midnight,
        round(avg(departure_delay_minutes), 1) as mean_departure_delay_minutes,
        max(departure_delay_minutes) as longest_departure_delay_minutes

    from flights

    group by origin_airport_code, flight_date

),

final as (

    select
        daily.origin_airport_code,
        daily.flight_date,
        airports.airport_name as origin_airport_name,
        daily.flights,
        daily.cancelled,
        daily.delayed_departures,
        daily.departures_after_midnight,
        daily.mean_departure_delay_minutes,
        daily.longest_departure_delay_minutes

    from daily

    left join airports
        on daily.origin_airport_code = airports.airport_code

)

select * from final
