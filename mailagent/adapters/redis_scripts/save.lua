-- Stores a job's new stage under a lease. Returns 1, or 0 when the lease is another's.
local lane, thread, token, job, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if not held(lane, thread, token) then
  return 0
end
redis.call('HSET', key('job', job), 'body', body)
return 1
