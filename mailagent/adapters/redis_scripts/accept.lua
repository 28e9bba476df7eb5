-- Stores new jobs and moves the cursor, or neither: returns those that are new, or nil when the cursor stands elsewhere.
-- The cursor moves last, so that a message is fetched again rather than lost.
local cursor, seen, uid = ARGV[1], ARGV[2], ARGV[3]

local function accept(job, thread, body, owner, index, colleagues)
  local rested = not works(thread)
  redis.call('HSETNX', key('thread', thread), 'owner', owner)
  redis.call('HSETNX', key('thread', thread), 'turns', 0)
  enqueue('turns', thread, job)
  -- A Message-ID stays with the thread that had it first: it is the sender's choice, and he may choose another's.
  if index ~= '' and redis.call('EXISTS', index) == 0 then
    remember(index, thread, job)
  end
  for _, colleague in ipairs(cjson.decode(colleagues)) do
    redis.call('SADD', key('participants', thread), colleague)
  end
  redis.call('SADD', key('names', thread), key('job', job), key('participants', thread))
  store(job, thread, body, 'turns')
  if rested then
    keep(thread)
  end
end

if cursor ~= '' and (redis.call('HGET', key('cursors'), cursor) or '0') ~= seen then
  return false
end
local news = {}
for at = 4, #ARGV, 6 do
  if redis.call('EXISTS', key('job', ARGV[at])) == 0 then
    accept(unpack(ARGV, at, at + 5))
    table.insert(news, ARGV[at])
  end
end
if cursor ~= '' then
  redis.call('HSET', key('cursors'), cursor, uid)
end
return news
