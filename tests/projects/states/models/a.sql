select {{ unless_broken('a') }} as id
