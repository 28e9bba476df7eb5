-- Sets the cursor of a mailbox never seen, and since when mail of its folder is ours, once for every UIDVALIDITY that it
-- may have. Returns where the cursor stands: another daemon may have been quicker.
local cursor, uid, folder, since = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

redis.call('HSETNX', key('since'), folder, since)
redis.call('HSETNX', key('cursors'), cursor, uid)
return redis.call('HGET', key('cursors'), cursor)
