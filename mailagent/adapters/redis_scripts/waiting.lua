-- The jobs behind the claimed one, in their order; a torn log may have left one twice in the list, or one that is elsewhere.
local lane, thread, claimed = ARGV[1], ARGV[2], ARGV[3]

local bodies, seen = {}, { [claimed] = true }
for _, job in ipairs(redis.call('LRANGE', key(lane, thread), 0, -1)) do
  local record = redis.call('HMGET', key('job', job), 'place', 'body')
  if record[1] == lane and not seen[job] then
    table.insert(bodies, record[2])
  end
  seen[job] = true
end
return bodies
