with

source as (

    select * from {{ source('postgres', 'pg_settings') }}

),

renamed as (

    select
        name as setting_name,
        split_part(category, ' / ', 1) as category,
        coalesce(setting != boot_val, false) as is_changed

    from source

)

select * from renamed
