#!lua
-- Appends to one transcript of a session; an entry whose uuid is there already is skipped. All transcripts of a session
-- expire together, `retention` seconds after the last append to any of them. `path` is "" for the main transcript, else
-- "/" and the subpath; then come pairs of uuid ("" for none) and entry. Returns how many were appended.
local session, path, retention = ARGV[1], ARGV[2], ARGV[3]

local function key(kind, of)
  return KEYS[1] .. ':' .. kind .. ':' .. session .. of
end

local count = 0
for i = 4, #ARGV, 2 do
  local uuid, entry = ARGV[i], ARGV[i + 1]
  if uuid == '' or redis.call('SISMEMBER', key('seen', path), uuid) == 0 then
    redis.call('RPUSH', key('log', path), entry)
    count = count + 1
    if uuid ~= '' then
      redis.call('SADD', key('seen', path), uuid)
    end
  end
end
redis.call('SADD', key('paths', ''), path)
for _, other in ipairs(redis.call('SMEMBERS', key('paths', ''))) do
  redis.call('EXPIRE', key('log', other), retention)
  redis.call('EXPIRE', key('seen', other), retention)
end
redis.call('EXPIRE', key('paths', ''), retention)
return count
