select {{ unless_broken('independent_1') }} as id
