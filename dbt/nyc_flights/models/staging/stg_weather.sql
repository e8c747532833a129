with

source as (

    select * from {{ source('raw', 'weather') }}

),

renamed as (

    select
        origin as airport_code,
        observed_at as observed_local,
        time_hour as observed_utc,
        temp as temperature_fahrenheit,
        dewp as dew_point_fahrenheit,
        humid as relative_humidity,
        wind_dir as wind_direction_degrees,
        wind_speed as wind_speed_mph,
        wind_gust as wind_gust_mph,
        precip as precipitation_inches,
        pressure as pressure_millibars,
        visib as visibility_miles

    from source

)

select * from renamed
