-- Forgets a thread that has no work: its jobs, its names, its transcripts, its checkpoint. What finds it goes last, so that
-- half of this is done again. Returns 1, or 0 when it has work.
local thread, session = ARGV[1], ARGV[2]

if redis.call('EXISTS', key('turns', thread), key('delivery', thread)) > 0 then
  return 0
end
for _, path in ipairs(redis.call('SMEMBERS', key('paths', session))) do
  redis.call('DEL', key('log', session .. path), key('seen', session .. path))
end
redis.call('DEL', key('paths', session), key('checkpoint', thread), key('ledger', 'thread', thread))
for _, name in ipairs(redis.call('SMEMBERS', key('names', thread))) do
  local place = redis.call('TYPE', name).ok == 'hash' and redis.call('HGET', name, 'place')
  if place and place ~= '' then
    redis.call('ZREM', key('index', place), string.sub(name, #key('job', '') + 1))
  end
  redis.call('DEL', name)
end
redis.call('DEL', key('names', thread), key('thread', thread))
return 1
