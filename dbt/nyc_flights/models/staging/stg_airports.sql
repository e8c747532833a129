with

archive as (

    select * from {{ ref('airports') }}

),

added as (

    select * from {{ ref('airports_added') }}

),

source as (

    select * from archive
    union all
    select * from added

),

renamed as (

    select
        faa as airport_code,
        name as airport_name,
        lat as latitude,
        lon as longitude,
        alt as altitude_feet,
        tzone as time_zone

    from source

)

select * from renamed
