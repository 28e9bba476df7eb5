-- Notes that a sent reply came back, unless its record changed meanwhile. Returns 1, or 0 when it did.
local job, before, after = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', key('job', job), 'body') ~= before then
  return 0
end
redis.call('HSET', key('job', job), 'body', after)
redis.call('ZADD', key('bounced'), milliseconds(), job)
return 1
