with

flights as (

    select * from {{ ref('fct_flights') }}

),

carriers as (

    select * from {{ ref('dim_carriers') }}

),

daily as (

    select
        carrier_code,
        flight_date,
        count(*) as flights,
        count(*) filter (where status = 'cancelled') as cancelled,
        count(*) filter (where status = 'diverted') as diverted,
        count(*) filter (where is_on_time) as on_time,
        round(avg(departure_delay_minutes), 1) as mean_departure_delay_minutes,
        percentile_cont(0.5) within group (order by arrival_delay_minutes)
            as median_arrival_delay_minutes

    from flights

    group by carrier_code, flight_date

),

final as (

    select
        daily.carrier_code,
        daily.flight_date,
        carriers.carrier_name,
        daily.flights,
        daily.cancelled,
        daily.diverted,
        daily.on_time,
        round(100.0 * daily.on_time / daily.flights, 1) as on_time_percent,
        daily.mean_departure_delay_minutes,
        daily.median_arrival_delay_minutes

    from daily

    left join carriers
        on daily.carrier_code = carriers.carrier_code

)

select * from final
