#!lua
-- Deletes one transcript of a session, or with path "" all of them.
local session, path = ARGV[1], ARGV[2]

local function key(kind, of)
  return KEYS[1] .. ':' .. kind .. ':' .. session .. of
end

local paths = path == '' and redis.call('SMEMBERS', key('paths', '')) or { path }
for _, each in ipairs(paths) do
  redis.call('DEL', key('log', each), key('seen', each))
  redis.call('SREM', key('paths', ''), each)
end
