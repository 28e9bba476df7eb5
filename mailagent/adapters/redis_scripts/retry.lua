-- Stores a job, gives the lease back and announces the thread after a delay. Returns 1, or 0 when the lease is another's.
local lane, thread, token, entry, job, body, delay = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

if not held(lane, thread, token) then
  return 0
end
redis.call('HSET', key('job', job), 'body', body)
redis.call('ZADD', key('later', lane), milliseconds() + delay, thread)
release(lane, thread, entry)
return 1
