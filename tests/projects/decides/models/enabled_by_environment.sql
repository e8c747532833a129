{{ config(enabled=env_var('DECIDES_MORE', 'no') == 'yes') }} select 1 as id
