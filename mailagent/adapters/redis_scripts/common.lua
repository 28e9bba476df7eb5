#!lua
-- What every script of the queue begins with. The first line makes Redis refuse the whole script, not half of it, when it
-- is out of memory, cannot write its log or is a replica. KEYS[1] is the prefix of all keys.
--
-- The lists {lane}:{thread} and the job records are the truth. The rest can be made again from them (look.lua):
--   due:{lane}      sorted set: thread -> its place among those that wait, see `announce`
--   later:{lane}    sorted set: thread -> when its delay ends, in milliseconds
--   leases:{lane}   sorted set: thread -> when its lease runs out, in milliseconds
--   tokens:{lane}   hash: thread -> the token of who has the lease; it stands until it is given back or taken over
--   last:{lane}     sorted set: sender -> the highest place that was given to him
--   bell:{lane}     stream of one entry: rung when those who wait should look again
--   index:{place}   sorted set: job -> since when it is there; a place is a lane, or an ending that people must see
-- A thread with work is due, delayed or leased. Milliseconds are those of Redis.
--
-- Within a script the order of the writes matters: a log torn by a crash may bring back the first of them alone
-- (seen with Redis 7.0.15), so a job is put into its new list first, then says in its record which place it is in,
-- and leaves its old list last; `claim` skips a job that stands in a list that is not its own.
local function key(...)
  return table.concat({ KEYS[1], ... }, ':')
end

local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function held(lane, thread, token)
  return redis.call('HGET', key('tokens', lane), thread) == token
end

local function works(thread)
  return redis.call('EXISTS', key('turns', thread), key('delivery', thread)) > 0
end

local function ring(lane)
  redis.call('XADD', key('bell', lane), 'MAXLEN', 1, '*', 'ring', '')
end

-- Makes a thread due, at a place that is fair between senders (start-time fair queueing): the places of one sender are
-- two apart, and a newcomer's is one behind the first. So he waits for at most one thread of each other sender; and as
-- nobody is put in front of those who are first, all come to be. Only where nothing is due somebody may be waiting.
local function announce(lane, thread)
  local due, last = key('due', lane), key('last', lane)
  if redis.call('ZSCORE', due, thread) then
    return
  end
  local sender = redis.call('HGET', key('thread', thread), 'owner') or ''
  local first = tonumber(redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2])
  local place = 0
  if first then
    redis.call('ZREMRANGEBYSCORE', last, '-inf', first - 1) -- they are newcomers again
    place = math.max(first + 1, (redis.call('ZSCORE', last, sender) or -2) + 2)
  else
    redis.call('DEL', last)
    ring(lane)
  end
  redis.call('ZADD', due, place, thread)
  redis.call('ZADD', last, place, sender)
end

local function enqueue(lane, thread, job)
  if redis.call('RPUSH', key(lane, thread), job) == 1 then
    announce(lane, thread)
  end
end

local function release(lane, thread)
  redis.call('ZREM', key('leases', lane), thread)
  redis.call('HDEL', key('tokens', lane), thread)
end

-- Takes a job out of a lane where its thread is leased, and gives the lease back.
local function leave(lane, thread, job)
  redis.call('LREM', key(lane, thread), 0, job)
  if redis.call('EXISTS', key(lane, thread)) == 1 then
    announce(lane, thread)
  end
  release(lane, thread)
end

-- Writes a job's record; `place` is '' for an ending that nobody need see.
local function store(job, thread, body, place)
  local before = redis.call('HGET', key('job', job), 'place') or ''
  redis.call('HSET', key('job', job), 'body', body, 'thread', thread, 'place', place)
  if place ~= before then
    if place ~= '' then
      redis.call('ZADD', key('index', place), milliseconds(), job)
    end
    if before ~= '' then
      redis.call('ZREM', key('index', before), job)
    end
  end
end

local function remember(index, thread, job)
  redis.call('HSET', index, 'thread', thread, 'job', job)
  redis.call('SADD', key('names', thread), index)
end

local function names(thread)
  local found = redis.call('SMEMBERS', key('names', thread))
  table.insert(found, key('names', thread))
  table.insert(found, key('thread', thread))
  return found
end

-- A thread with work never expires; one without expires as a whole, `retention` seconds after the last write.
local function keep(thread)
  for _, name in ipairs(names(thread)) do
    redis.call('PERSIST', name)
  end
end

local function rest(thread, retention)
  if not works(thread) then
    for _, name in ipairs(names(thread)) do
      redis.call('EXPIRE', name, retention)
    end
  end
end

-- From now on these keys are kept and forgotten with the thread, which renews all that is its own. With thread '' they
-- expire by themselves.
local function join(thread, retention, found)
  if thread ~= '' then
    redis.call('SADD', key('names', thread), unpack(found))
  end
  for _, name in ipairs(found) do
    if works(thread) then
      redis.call('PERSIST', name)
    else
      redis.call('EXPIRE', name, retention)
    end
  end
end
