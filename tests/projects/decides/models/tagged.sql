{{ config(tags=['chosen'] if var('is_chosen', true) else []) }}
select {{ function('twice') }}(id) as id from {{ ref('independent_1') }}
