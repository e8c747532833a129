with

settings as (

    select * from {{ ref('stg_settings') }}

),

final as (

    select
        category,
        count(*) as settings,
        count(*) filter (where is_changed) as changed_settings

    from settings

    group by category

)

select * from final
