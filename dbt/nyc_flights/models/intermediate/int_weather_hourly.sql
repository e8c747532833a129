with

weather as (

    select * from {{ ref('stg_weather') }}

),

hourly as (

    -- The hour that the end of summer time repeats has two readings: the later one stays.
    select distinct on (airport_code, observed_local)
        airport_code,
        observed_local,
        temperature_fahrenheit,
        -- The archive has one of 1048 mph; the record on earth is 253.
        case when wind_speed_mph <= 253 then wind_speed_mph end as wind_speed_mph,
        wind_gust_mph,
        precipitation_inches,
        visibility_miles

    from weather

    order by airport_code asc, observed_local asc, observed_utc desc

),

final as (

    select
        *,
        case
            when precipitation_inches > 0 and temperature_fahrenheit <= 32 then 'snow or ice'
            when precipitation_inches > 0 then 'rain'
            -- Below 3 miles pilots need instruments; 34.5 mph are 30 knots, hard to land across.
            when visibility_miles < 3 then 'low visibility'
            when wind_gust_mph >= 34.5 then 'strong gusts'
            else 'fair'
        end as weather_condition

    from hourly

)

select * from final
