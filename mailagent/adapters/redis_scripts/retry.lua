-- Stores a job, gives the lease back and makes the thread due after a delay. Returns 1, or 0 when the lease is another's.
local lane, thread, token, job, body, delay = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

if not held(lane, thread, token) then
  return 0
end
redis.call('HSET', key('job', job), 'body', body)
if delay > 0 then
  redis.call('ZADD', key('later', lane), milliseconds() + delay, thread)
  if redis.call('ZRANK', key('later', lane), thread) == 0 then
    ring(lane) -- whoever waits, waits too long
  end
else
  announce(lane, thread)
end
release(lane, thread)
return 1
