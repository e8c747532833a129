select {{ function('twice') }}(id) as id from {{ ref('chain_a') }}
