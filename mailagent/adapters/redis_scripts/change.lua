-- Stores another stage of a job that nobody works at, unless its record changed meanwhile. `to` is the place of the new
-- stage: the job leaves its lane, or joins one. Returns 1, or 0 when it changed, its thread is at work, or it waits in a
-- lane and should wait in one.
local job, thread, before, after, to, retention = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local function is_lane(place)
  return place == 'turns' or place == 'delivery'
end

local function take_out(lane)
  local first = redis.call('LINDEX', key(lane, thread), 0) == job
  redis.call('LREM', key(lane, thread), 0, job)
  if first then
    redis.call('ZREM', key('later', lane), thread) -- it delayed the others
  end
  if redis.call('EXISTS', key(lane, thread)) == 0 then
    redis.call('ZREM', key('due', lane), thread)
  elseif first then
    announce(lane, thread)
  end
end

local record = redis.call('HMGET', key('job', job), 'body', 'place')
local from = record[2]
if record[1] ~= before or (is_lane(from) and (is_lane(to) or redis.call('ZSCORE', key('leases', from), thread))) then
  return 0
end
local rested = not works(thread)
if is_lane(to) then
  enqueue(to, thread, job)
end
store(job, thread, after, to)
redis.call('HDEL', key('job', job), 'returned') -- what is sent from now on did not
if is_lane(from) then
  take_out(from)
  rest(thread, retention)
elseif is_lane(to) and rested then
  keep(thread)
end
return 1
