#!lua
-- Puts what a model request used in the place of the most that it was charged, once. KEYS: the request's mark; ARGV: the
-- tokens, the microdollars. An account that is gone meanwhile is not made again.
local most = redis.call('HMGET', KEYS[1], 'tokens', 'microdollars', 'accounts')
if not most[1] then
  return 0
end
redis.call('DEL', KEYS[1])
for _, account in ipairs(cjson.decode(most[3])) do
  if redis.call('EXISTS', account) == 1 then
    redis.call('HINCRBY', account, 'tokens', ARGV[1] - most[1])
    redis.call('HINCRBY', account, 'microdollars', ARGV[2] - most[2])
  end
end
return 1
