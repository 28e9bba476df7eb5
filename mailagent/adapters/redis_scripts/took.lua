#!lua
-- Counts mails for their senders and the day, each once; they are also noted with their time, since an hour slides.
-- The job's mark comes first: a log torn by a crash may bring back the first write alone, and then too little is counted.
local keep, day, now = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local function key(...)
  return table.concat({ KEYS[1], 'ledger', ... }, ':')
end

for i = 4, #ARGV, 2 do
  local sender, job = ARGV[i], ARGV[i + 1]
  if redis.call('SET', key('took', job), now, 'NX', 'EX', keep) then
    redis.call('HINCRBY', key('day', sender, day), 'mails', 1)
    redis.call('EXPIRE', key('day', sender, day), keep)
    for _, hours in ipairs({ key('hours', sender), key('hours') }) do
      redis.call('ZADD', hours, now, job)
      redis.call('ZREMRANGEBYSCORE', hours, '-inf', now - keep)
      redis.call('EXPIRE', hours, keep)
    end
  end
end
