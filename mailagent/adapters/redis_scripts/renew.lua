-- Extends a lease. Returns 1, or 0 when it is another's.
local lane, thread, token, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if not held(lane, thread, token) then
  return 0
end
redis.call('ZADD', key('leases', lane), milliseconds() + lease, thread)
return 1
