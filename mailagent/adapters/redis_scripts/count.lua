#!lua
-- Counts a mail ('took') or what its answer used ('used') for its sender and day, once for each job; the pairs of a
-- field and an amount come last. A mail is also noted with its time, for its sender and for all, since an hour slides.
-- The job's mark comes first: a log torn by a crash may bring back the first write alone, and then too little is counted.
local what, job, sender, day, now, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

local function key(...)
  return table.concat({ KEYS[1], 'ledger', ... }, ':')
end

if not redis.call('SET', key(what, job), now, 'NX', 'EX', keep) then
  return 0
end
for i = 7, #ARGV, 2 do
  redis.call('HINCRBY', key('day', sender, day), ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', key('day', sender, day), keep)
if what == 'took' then
  for _, hours in ipairs({ key('hours', sender), key('hours') }) do
    redis.call('ZADD', hours, now, job)
    redis.call('ZREMRANGEBYSCORE', hours, '-inf', now - keep)
    redis.call('EXPIRE', hours, keep)
  end
end
return 1
