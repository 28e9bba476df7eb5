-- A reply came back: its job has bounced, as `body` says. One that is still in the outbox, with other envelopes or its
-- copy, ends so (finish.lua). Returns 1, or 0 when it has another ending.
local job, body = ARGV[1], ARGV[2]

local record = redis.call('HMGET', key('job', job), 'place', 'thread')
if record[1] == 'delivery' then
  redis.call('HSET', key('job', job), 'returned', body)
elseif record[1] == '' then
  store(job, record[2], body, 'bounced')
else
  return 0
end
return 1
