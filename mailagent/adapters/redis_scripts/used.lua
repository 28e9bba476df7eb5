#!lua
-- Counts what the answer to a mail used for its sender and the day, once for each job. The job's mark comes first: a log
-- torn by a crash may bring back the first write alone, and then too little is counted.
local keep, day, now, sender, job, tokens, microdollars = tonumber(ARGV[1]), unpack(ARGV, 2)

local function key(...)
  return table.concat({ KEYS[1], 'ledger', ... }, ':')
end

if redis.call('SET', key('used', job), now, 'NX', 'EX', keep) then
  redis.call('HINCRBY', key('day', sender, day), 'tokens', tokens)
  redis.call('HINCRBY', key('day', sender, day), 'microdollars', microdollars)
  redis.call('EXPIRE', key('day', sender, day), keep)
end
