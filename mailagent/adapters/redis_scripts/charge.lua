#!lua
-- Charges the most that a model request may use to all of its accounts, or to none if one of them has no room left: then
-- its place among them and what it has used come back. KEYS: the request's mark, its accounts. ARGV: how long the mark is
-- kept, the tokens, the microdollars; then for each account how long it is kept and its limits.
-- The mark comes last: of a log torn by a crash, what was charged stays, rather than that `settle` takes it off twice.
local keep, tokens, microdollars = ARGV[1], ARGV[2], ARGV[3]
local fields = { 'requests', 'tokens', 'microdollars' }

if redis.call('EXISTS', KEYS[1]) == 1 then
  return {}
end
for i = 2, #KEYS do
  local used = redis.call('HMGET', KEYS[i], unpack(fields))
  for field = 1, #fields do
    if tonumber(used[field] or 0) >= tonumber(ARGV[4 * i - 4 + field]) then
      return { i - 2, tonumber(used[1] or 0), tonumber(used[2] or 0), tonumber(used[3] or 0) }
    end
  end
end
for i = 2, #KEYS do
  redis.call('HINCRBY', KEYS[i], 'requests', 1)
  redis.call('HINCRBY', KEYS[i], 'tokens', tokens)
  redis.call('HINCRBY', KEYS[i], 'microdollars', microdollars)
  redis.call('EXPIRE', KEYS[i], ARGV[4 * i - 4])
end
redis.call('HSET', KEYS[1], 'tokens', tokens, 'microdollars', microdollars, 'accounts', cjson.encode({ unpack(KEYS, 2) }))
redis.call('EXPIRE', KEYS[1], keep)
return {}
