-- Stores a job's last stage and takes it out of its lane. Returns 1, or 0 when the lease is another's.
local lane, thread, token, entry, job, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local dead, retention = ARGV[7], ARGV[8]

if not held(lane, thread, token) then
  return 0
end
if dead == '1' then
  redis.call('ZADD', key('dead'), milliseconds(), job)
end
redis.call('HSET', key('job', job), 'body', body, 'lane', '')
leave(lane, thread, entry, job)
age(thread, retention)
return 1
