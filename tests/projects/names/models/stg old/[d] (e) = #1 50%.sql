select {{ unless_broken('[d] (e) = #1 50%') }} as id
