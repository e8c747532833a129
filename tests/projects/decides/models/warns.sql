select null::int as id from {{ source('settings', 'pg_settings') }} limit 1
