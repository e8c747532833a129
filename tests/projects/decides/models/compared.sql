{{ config(materialized='incremental') }} select {{ unless_broken('compared') }} as id
