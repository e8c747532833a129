select {{ unless_broken('continues') }} as id
