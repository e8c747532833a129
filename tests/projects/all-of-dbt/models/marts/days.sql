select generate_series('2026-01-01', '2026-12-31', interval '1 day')::date as date_day
