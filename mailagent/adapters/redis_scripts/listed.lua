-- The jobs of one place, those first that have been there longest; with place "later" the first jobs of delayed threads of
-- `lane`, those first whose delay ends first. Each is {body, the token of who works at it
-- or '', when its delay ends or ''}.
local place, lane, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function first(thread)
  return redis.call('LINDEX', key(lane, thread), 0)
end

local jobs = {}
if place == 'later' then
  for _, thread in ipairs(redis.call('ZRANGE', key('later', lane), 0, limit - 1)) do
    table.insert(jobs, first(thread))
  end
else
  jobs = redis.call('ZRANGE', key('index', place), 0, limit - 1)
end

local found = {}
for _, job in ipairs(jobs) do
  local record = redis.call('HMGET', key('job', job), 'body', 'thread')
  if record[1] then
    local at_work = redis.call('ZSCORE', key('leases', lane), record[2]) and first(record[2]) == job
    local ends = redis.call('ZSCORE', key('later', lane), record[2])
    local holder = at_work and redis.call('HGET', key('tokens', lane), record[2])
    table.insert(found, { record[1], holder or '', ends or '' })
  end
end
return found
