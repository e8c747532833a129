{{ config(materialized='incremental') }} select {{ unless_broken('checked') }} as id
