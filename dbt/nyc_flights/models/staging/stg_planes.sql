with

source as (

    select * from {{ ref('planes_snapshot') }}

),

renamed as (

    select
        tailnum as tail_number,
        -- Each of these manufacturers has two legal names.
        case
            when manufacturer like 'AIRBUS%' then 'AIRBUS'
            when manufacturer like 'MCDONNELL DOUGLAS%' then 'MCDONNELL DOUGLAS'
            else manufacturer
        end as manufacturer,
        model,
        type as aircraft_type,
        engine as engine_type,
        engines as engine_count,
        seats as seat_count,
        year as built_year

    from source

    where dbt_valid_to is null

)

select * from renamed
