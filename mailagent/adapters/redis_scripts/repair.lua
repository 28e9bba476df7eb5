-- Announces those of the given threads that have work and are neither announced, leased nor delayed; returns how many.
-- Drops what nobody needs any more: consumers of daemons long gone, and dead jobs past their retention.
local lane, idle, retention = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ready = key('ready', lane)

local announced = {}
for _, entry in ipairs(redis.call('XRANGE', ready, '-', '+')) do
  announced[entry[2][2]] = true
end
local count = 0
for i = 4, #ARGV do
  local thread = ARGV[i]
  local waits = redis.call('EXISTS', key(lane, thread)) == 1
    and redis.call('EXISTS', key('lease', lane, thread)) == 0
    and not redis.call('ZSCORE', key('later', lane), thread)
  if waits and not announced[thread] then
    announce(lane, thread)
    count = count + 1
  end
end

local groups = redis.call('EXISTS', ready) == 1 and redis.call('XINFO', 'GROUPS', ready) or {}
for _, consumer in ipairs(#groups > 0 and redis.call('XINFO', 'CONSUMERS', ready, GROUP) or {}) do
  local name, pending, silent = consumer[2], consumer[4], consumer[6]
  if pending == 0 and silent > idle then
    redis.call('XGROUP', 'DELCONSUMER', ready, GROUP, name)
  end
end
redis.call('ZREMRANGEBYSCORE', key('dead'), '-inf', milliseconds() - retention * 1000)
return count
