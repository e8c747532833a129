{{ config(tags=['chosen'] if var('is_chosen', true) else []) }}
select * from {{ ref('independent_1') }}
