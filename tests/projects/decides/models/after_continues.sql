select {{ unless_broken('after_continues') }} as id -- {{ ref('continues') }}
