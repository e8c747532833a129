with

flights as (

    select * from {{ ref('fct_flights') }}

),

final as (

    select
        origin_airport_code,
        weather_condition,
        count(*) as flights,
        round(100.0 * count(*) filter (where status = 'cancelled') / count(*), 1)
            as cancelled_percent,
        round(100.0 * count(*) filter (where is_on_time) / count(*), 1) as on_time_percent,
        round(avg(departure_delay_minutes), 1) as mean_departure_delay_minutes

    from flights

    group by origin_airport_code, weather_condition

)

select * from final
