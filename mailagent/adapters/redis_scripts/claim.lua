-- Leases the next thread of a lane: {entry, thread, body}. When there is none: {the newest entry, milliseconds until the
-- next delayed thread is due or -1}, for the caller to wait on.
local lane, owner, token, lease = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local ready, later = key('ready', lane), key('later', lane)

-- The first job of a thread. One whose record is gone or names another lane is what a torn log left: it is dropped.
local function head(thread)
  local job = redis.call('LINDEX', key(lane, thread), 0)
  while job and redis.call('HGET', key('job', job), 'lane') ~= lane do
    redis.call('LPOP', key(lane, thread))
    job = redis.call('LINDEX', key(lane, thread), 0)
  end
  return job
end

-- An announcement of a leased thread stays pending: it is looked at again when the lease may have ended.
local function take(entry, thread)
  if redis.call('EXISTS', key('lease', lane, thread)) == 1 then
    return nil
  end
  local job = head(thread)
  if not job or redis.call('ZSCORE', later, thread) then
    withdraw(lane, entry)
    return nil
  end
  redis.call('SET', key('lease', lane, thread), token, 'PX', lease)
  return { entry, thread, redis.call('HGET', key('job', job), 'body') }
end

local function first(entries)
  for _, entry in ipairs(entries) do
    local taken = take(entry[1], entry[2][2])
    if taken then
      return taken
    end
  end
end

local now = milliseconds()
for _, thread in ipairs(redis.call('ZRANGEBYSCORE', later, '-inf', now)) do
  announce(lane, thread)
  redis.call('ZREM', later, thread)
end

-- The group is gone after a loss of data; made again from 0, it delivers all that is announced once more.
if redis.call('EXISTS', ready) == 0 or #redis.call('XINFO', 'GROUPS', ready) == 0 then
  redis.call('XGROUP', 'CREATE', ready, GROUP, '0', 'MKSTREAM')
end

-- Announcements of consumers that died; 10 ms more than the lease, so that the lease is over by then.
local start = '0-0'
repeat
  local reply = redis.call('XAUTOCLAIM', ready, GROUP, owner, lease + 10, start, 'COUNT', 1)
  local taken = first(reply[2])
  if taken then
    return taken
  end
  start = reply[1]
until start == '0-0'

while true do
  local reply = redis.call('XREADGROUP', 'GROUP', GROUP, owner, 'COUNT', 1, 'STREAMS', ready, '>')
  if not reply then
    break
  end
  local taken = first(reply[1][2])
  if taken then
    return taken
  end
end

local newest = redis.call('XREVRANGE', ready, '+', '-', 'COUNT', 1)
local due = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')
return { newest[1] and newest[1][1] or '0-0', due[2] and due[2] - now or -1 }
