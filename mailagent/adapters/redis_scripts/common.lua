#!lua
-- What every script of the queue begins with. The first line makes Redis refuse the whole script, not half of it, when it
-- is out of memory, cannot write its log or is a replica. KEYS[1] is the prefix of all keys.
--
-- The lists {lane}:{thread} and the job records are the truth; streams, leases and indexes can be made again from them.
-- Within a script the order of the writes matters: a log torn by a crash may bring back the first of them alone
-- (seen with Redis 7.0.15), so a job is put into its new list first, then says in its record which lane it is in,
-- and leaves its old list last; `claim` skips a job that stands in a list that is not its own.
local GROUP = 'workers'

local function key(...)
  return table.concat({ KEYS[1], ... }, ':')
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function held(lane, thread, token)
  return redis.call('GET', key('lease', lane, thread)) == token
end

local function announce(lane, thread)
  redis.call('XADD', key('ready', lane), '*', 'thread', thread)
end

-- The record goes before the acknowledgement: one that is acknowledged but still there would never be delivered again.
local function withdraw(lane, entry)
  redis.call('XDEL', key('ready', lane), entry)
  redis.call('XACK', key('ready', lane), GROUP, entry)
end

local function enqueue(lane, thread, job)
  if redis.call('RPUSH', key(lane, thread), job) == 1 then
    announce(lane, thread)
  end
end

local function release(lane, thread, entry)
  withdraw(lane, entry)
  redis.call('DEL', key('lease', lane, thread))
end

local function leave(lane, thread, entry, job)
  redis.call('LREM', key(lane, thread), 0, job)
  if redis.call('EXISTS', key(lane, thread)) == 1 then
    announce(lane, thread)
  end
  release(lane, thread, entry)
end

local function remember(index, thread, job)
  redis.call('HSET', index, 'thread', thread, 'job', job)
  redis.call('SADD', key('names', thread), index)
end

-- A thread with work never expires; one without expires as a whole, `retention` seconds after the last write.
local function age(thread, retention)
  local names = redis.call('SMEMBERS', key('names', thread))
  table.insert(names, key('names', thread))
  table.insert(names, key('thread', thread))
  local works = redis.call('EXISTS', key('turns', thread), key('delivery', thread)) > 0
  for _, name in ipairs(names) do
    if works then
      redis.call('PERSIST', name)
    else
      redis.call('EXPIRE', name, retention)
    end
  end
end
