-- Extends a lease and the claim on its announcement. Returns 1, or 0 when the lease is another's.
local lane, thread, token, entry, owner, lease = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if not held(lane, thread, token) then
  return 0
end
redis.call('PEXPIRE', key('lease', lane, thread), lease)
-- Without stream or group (data was lost) there is no announcement to renew: the janitor makes one when it is needed.
redis.pcall('XCLAIM', key('ready', lane), GROUP, owner, 0, entry, 'JUSTID')
return 1
