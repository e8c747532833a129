with

-- dbt narrows both inputs to the batch's day. No flight needs the weather of another day.
flights as (

    select * from {{ ref('int_flights_timed') }}

),

weather as (

    select * from {{ ref('int_weather_hourly') }}

),

final as (

    select
        flights.flight_id,
        flights.flight_date,
        flights.carrier_code,
        flights.flight_number,
        flights.tail_number,
        flights.origin_airport_code,
        flights.destination_airport_code,
        flights.status,
        flights.scheduled_departure_at,
        flights.scheduled_departure_local,
        flights.departed_local,
        flights.scheduled_arrival_local,
        flights.arrived_local,
        flights.departure_delay_minutes,
        flights.arrival_delay_minutes,
        coalesce(flights.arrival_delay_minutes < 15, false) as is_on_time,
        flights.air_time_minutes,
        flights.distance_miles,
        coalesce(weather.weather_condition, 'unknown') as weather_condition

    from flights

    left join weather
        on
            flights.origin_airport_code = weather.airport_code
            and date_trunc('hour', flights.scheduled_departure_local) = weather.observed_local

)

select * from final
