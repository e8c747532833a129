select {{ unless_broken('against') }} as id
