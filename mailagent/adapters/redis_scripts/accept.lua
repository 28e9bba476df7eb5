-- Stores a new job and moves the cursor, or neither. The cursor moves last, so that a message is fetched again rather
-- than lost. A Message-ID stays with the thread that had it first: it is the sender's choice, and he may choose another's.
local job, thread, body, owner, index, retention = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local colleagues, cursor, seen, uid = cjson.decode(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]

if cursor and (redis.call('HGET', key('cursors'), cursor) or '0') ~= seen then
  return 'rewound'
end
local known = redis.call('EXISTS', key('job', job)) == 1
if not known then
  enqueue('turns', thread, job)
  redis.call('HSETNX', key('thread', thread), 'owner', owner)
  redis.call('HSETNX', key('thread', thread), 'turns', 0)
  if index ~= '' and redis.call('EXISTS', index) == 0 then
    remember(index, thread, job)
  end
  for _, colleague in ipairs(colleagues) do
    redis.call('SADD', key('participants', thread), colleague)
  end
  redis.call('SADD', key('names', thread), key('job', job), key('participants', thread))
  redis.call('HSET', key('job', job), 'body', body, 'lane', 'turns')
  age(thread, retention)
end
if cursor then
  redis.call('HSET', key('cursors'), cursor, uid)
end
return known and 'known' or 'new'
