with

flights as (

    select * from {{ ref('stg_flights') }}

),

scheduled as (

    select
        *,
        flight_date + {{ hhmm_to_interval('scheduled_departure_hhmm') }}
            as scheduled_departure_local,
        flight_date
        + {{ hhmm_to_interval('scheduled_arrival_hhmm') }}
        -- Even to the far west no flight is due on an earlier clock time of the same day.
        + case
            when scheduled_arrival_hhmm < scheduled_departure_hhmm then interval '1 day'
            else interval '0'
        end as scheduled_arrival_local

    from flights

),

final as (

    select
        *,
        scheduled_departure_local at time zone 'America/New_York' as scheduled_departure_at,
        -- The actual clock times don't say on which day: delays reach 21 hours.
        scheduled_departure_local
        + make_interval(mins => departure_delay_minutes) as departed_local,
        scheduled_arrival_local + make_interval(mins => arrival_delay_minutes) as arrived_local,
        case
            when departure_hhmm is null then 'cancelled'
            when arrival_delay_minutes is null then 'diverted'
            else 'completed'
        end as status

    from scheduled

)

select * from final
