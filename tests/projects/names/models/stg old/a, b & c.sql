select {{ unless_broken('a, b & c') }} as id
