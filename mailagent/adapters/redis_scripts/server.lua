-- Which server keeps our keys, and whose data it has: another answer means that something may be lost.
local server, data = redis.call('INFO', 'server'), redis.call('INFO', 'replication')
return server:match('run_id:(%x+)') .. data:match('master_replid:(%x+)')
