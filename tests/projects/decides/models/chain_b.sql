{{ config(materialized='view') }} select * from {{ ref('chain_a') }}
