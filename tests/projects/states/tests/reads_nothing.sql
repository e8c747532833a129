select 'broken' as why where {{ is_broken('reads_nothing') }}
