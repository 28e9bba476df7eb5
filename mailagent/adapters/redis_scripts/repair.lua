-- Announces those of the given threads that have work and are neither announced, leased nor delayed; returns how many.
-- Drops what nobody needs any more: consumers of daemons long gone, and dead jobs past their retention.
local lane, idle, retention = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local ready = key('ready', lane)

-- XINFO answers with names and values by turns.
local group = redis.call('EXISTS', ready) == 1 and redis.call('XINFO', 'GROUPS', ready)[1]
local delivered, consumers, pending = '0-0', {}, {}
if group then
  delivered = group[8]
  consumers = redis.call('XINFO', 'CONSUMERS', ready, GROUP)
  for _, each in ipairs(redis.call('XPENDING', ready, GROUP, '-', '+', 1000000)) do
    pending[each[1]] = true
  end
end

-- An entry announces its thread when it is pending or not yet delivered. One that is neither is what a torn log left
-- (seen with Redis 7.0.15): nobody will ever get it.
local announced = {}
for _, entry in ipairs(redis.call('XRANGE', ready, '(' .. delivered, '+')) do
  announced[entry[2][2]] = true
end
for _, entry in ipairs(redis.call('XRANGE', ready, '-', delivered)) do
  if pending[entry[1]] then
    announced[entry[2][2]] = true
  else
    redis.call('XDEL', ready, entry[1])
  end
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

for _, consumer in ipairs(consumers) do
  local name, entries, silent = consumer[2], consumer[4], consumer[6]
  if entries == 0 and silent > idle then
    redis.call('XGROUP', 'DELCONSUMER', ready, GROUP, name)
  end
end
redis.call('ZREMRANGEBYSCORE', key('dead'), '-inf', milliseconds() - retention * 1000)
return count
