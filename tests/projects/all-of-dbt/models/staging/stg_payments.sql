{{ config(enabled=false) }}

select 1 as payment_id
