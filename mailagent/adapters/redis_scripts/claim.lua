-- Leases the next thread of a lane: {thread, body, job}. When there is none: {the bell's last entry, milliseconds until a
-- delay ends or a lease runs out, or -1}, for the caller to wait on. After the lease come the threads that the caller is at
-- work on: where their lease ran out, it is left for him to renew.
local lane, token, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local own = {}
for at = 4, #ARGV do
  own[ARGV[at]] = true
end
local due, later, leases = key('due', lane), key('later', lane), key('leases', lane)
local now = milliseconds()

-- The first job of a thread. One whose record is gone or names another place is what a torn log left: it is dropped.
local function head(thread)
  local job = redis.call('LINDEX', key(lane, thread), 0)
  while job and redis.call('HGET', key('job', job), 'place') ~= lane do
    redis.call('LPOP', key(lane, thread))
    job = redis.call('LINDEX', key(lane, thread), 0)
  end
  return job
end

local function take(thread)
  local job = head(thread)
  if not job then
    release(lane, thread)
    return nil
  end
  redis.call('ZADD', leases, now + lease, thread)
  redis.call('HSET', key('tokens', lane), thread, token)
  return { thread, redis.call('HGET', key('job', job), 'body'), job }
end

for _, thread in ipairs(redis.call('ZRANGEBYSCORE', later, '-inf', now)) do
  announce(lane, thread)
  redis.call('ZREM', later, thread)
end

for _, thread in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
  local taken = not own[thread] and take(thread)
  if taken then
    return taken
  end
end

-- After a loss of data a thread may be due and leased or delayed too: then it waits for that.
local thread = redis.call('ZPOPMIN', due)[1]
while thread do
  local waits = redis.call('ZSCORE', leases, thread) or redis.call('ZSCORE', later, thread)
  local taken = not waits and take(thread)
  if taken then
    return taken
  end
  thread = redis.call('ZPOPMIN', due)[1]
end

local wait = -1
for _, times in ipairs({ later, leases }) do
  local first = redis.call('ZRANGE', times, 0, 0, 'WITHSCORES')[2]
  if first then
    local left = tonumber(first) > now and first - now or 1000  -- what ran out and is left there is the caller's
    wait = wait < 0 and left or math.min(wait, left)
  end
end
local rung = redis.call('XREVRANGE', key('bell', lane), '+', '-', 'COUNT', 1)[1]
return { rung and rung[1] or '0-0', wait }
