-- Lets a thread go on in another copy of its files, made from this checkpoint: what the transcript says beyond that is cut
-- off. The copy is named last: half of this, left by a torn log, is done again. `lost` is '1' when there was more, which is
-- told also if the turn is tried again, or ''. Returns 1, or 0 when the lease is another's.
local session, thread, token, retention, manifest = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local entries, copy, lost = tonumber(ARGV[6]), ARGV[7], ARGV[8]
local checkpoint = key('checkpoint', thread)
local log, seen = key('log', session), key('seen', session)

if not held('turns', thread, token) then
  return 0
end
for _, entry in ipairs(redis.call('LRANGE', log, entries, -1)) do
  local read, value = pcall(cjson.decode, entry)
  if read and type(value) == 'table' and type(value.uuid) == 'string' then
    redis.call('SREM', seen, value.uuid)
  end
end
if entries == 0 then
  redis.call('DEL', log)
else
  redis.call('LTRIM', log, 0, entries - 1)
end
redis.call('HSET', checkpoint, 'manifest', manifest, 'entries', entries, 'copy', copy, 'lost', lost)
join(thread, retention, { checkpoint })
return 1
