with

settings as (

    select * from {{ ref('stg_settings') }}

),

final as (

    select
        category,
        count(*) as setting_count,
        count(*) filter (where is_changed) as changed_setting_count

    from settings

    group by category

)

select * from final
