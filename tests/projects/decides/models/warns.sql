{{ config(enabled=var('more', true)) }} select null::int as id from {{ source('settings', 'pg_settings') }} limit 1
