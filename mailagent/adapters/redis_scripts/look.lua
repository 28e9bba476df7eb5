-- Looks whether all that is said of some jobs or threads agrees, and with `mend` makes it agree with the lists and the
-- records. Returns what was wrong, in plain words. `what` names the kind of the things to look at, `place` where they are.
local mend, what, place, retention = ARGV[1] == '1', ARGV[2], ARGV[3], ARGV[4] * 1000
local findings = {}

local function wrong(...)
  table.insert(findings, table.concat({ ... }, ' '))
  return mend
end

local look = {}

-- A list: whoever is twice in it or not meant to be is taken out. What it holds must be due, delayed or leased.
function look.list(thread)
  local list, seen = key(place, thread), {}
  for _, job in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local record = redis.call('HMGET', key('job', job), 'place', 'thread')
    if not record[1] then
      if wrong('job', job, 'stands in', place, 'of thread', thread, 'but has no record') then
        redis.call('LREM', list, 0, job)
      end
    elseif record[1] ~= place or record[2] ~= thread then
      local says = record[1] == '' and 'in no place' or 'in ' .. record[1]
      if wrong('job', job, 'stands in', place, 'of thread', thread, 'but is', says, 'of thread', record[2]) then
        redis.call('LREM', list, 0, job)
      end
    elseif seen[job] then
      if wrong('job', job, 'stands twice in', place, 'of thread', thread) then
        redis.call('LREM', list, -1, job)
      end
    end
    seen[job] = true
  end
  local known = redis.call('ZSCORE', key('due', place), thread)
    or redis.call('ZSCORE', key('later', place), thread)
    or redis.call('ZSCORE', key('leases', place), thread)
  if not known and redis.call('EXISTS', list) == 1 then
    if wrong('thread', thread, 'has work in', place, 'but is neither due nor delayed nor leased') then
      announce(place, thread)
    end
  end
end

-- A record: what it says of its place must be so. A job that should wait and stands in no list is put back, with the stage
-- that its record has: whatever came after was never stored, so doing it is not doing it twice. It goes to the end: its
-- place is lost, and the first of the list may be at work.
function look.job(job)
  local record = redis.call('HMGET', key('job', job), 'place', 'thread')
  local at, thread = record[1], record[2]
  if not at or at == '' then
    return
  end
  if (at == 'turns' or at == 'delivery') and not redis.call('LPOS', key(at, thread), job) then
    if wrong('job', job, 'is in', at, 'but not in the list of thread', thread) then
      enqueue(at, thread, job)
    end
  end
  if not redis.call('ZSCORE', key('index', at), job) then
    if wrong('job', job, 'is in', at, 'but not in its index') then
      redis.call('ZADD', key('index', at), milliseconds(), job)
    end
  end
end

-- A thread that is said to be due, delayed or leased must have work.
function look.thread(thread)
  if redis.call('EXISTS', key(place, thread)) == 1 then
    return
  end
  for _, set in ipairs({ 'due', 'later', 'leases' }) do
    if redis.call('ZSCORE', key(set, place), thread) then
      if wrong('thread', thread, 'is in', set, 'of', place, 'but has no work there') then
        redis.call('ZREM', key(set, place), thread)
      end
    end
  end
  if redis.call('HEXISTS', key('tokens', place), thread) == 1 then
    if wrong('thread', thread, 'is held in', place, 'but has no work there') then
      redis.call('HDEL', key('tokens', place), thread)
    end
  end
end

-- An entry of an index must have a record that says so; but a record may expire, and then its entry goes without a word.
function look.entry(job)
  local since = redis.call('ZSCORE', key('index', place), job)
  local says = redis.call('HGET', key('job', job), 'place')
  if not since or says == place then
    return
  end
  local expired = not says and milliseconds() - since >= retention
  if expired and mend or not expired and wrong('job', job, 'is in the index of', place, 'but its record is not') then
    redis.call('ZREM', key('index', place), job)
  end
end

for i = 5, #ARGV do
  look[what](ARGV[i])
end
return findings
