select {{ unless_broken('independent_2') }} as id
