{{ config(enabled=var('more', false)) }} select * from {{ ref('independent_1') }}
