-- Reads no model. Postgres 15 is the first one with merge, which orders_by_day needs.
select current_setting('server_version') as version
where current_setting('server_version_num')::integer < 150000
