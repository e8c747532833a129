select {{ unless_broken('independent_3') }} as id
