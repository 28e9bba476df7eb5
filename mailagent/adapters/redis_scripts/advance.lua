-- Moves a mailbox's cursor if it stands where the caller saw it; a mailbox never seen stands at 0. Returns 1 or 0.
local cursor, seen, uid = ARGV[1], ARGV[2], ARGV[3]

if (redis.call('HGET', key('cursors'), cursor) or '0') ~= seen then
  return 0
end
redis.call('HSET', key('cursors'), cursor, uid)
return 1
