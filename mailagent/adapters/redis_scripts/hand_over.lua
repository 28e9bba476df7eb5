-- Ends a turn: the job goes from this lane into the outbox. Returns 1, or 0 when the lease is another's.
-- The reply's Message-ID is ours, so it is indexed whatever stood there.
local lane, thread, token, job, body, index = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if not held(lane, thread, token) then
  return 0
end
enqueue('delivery', thread, job)
store(job, thread, body, 'delivery')
redis.call('HINCRBY', key('thread', thread), 'turns', 1)
remember(index, thread, job)
for at = 7, #ARGV, 2 do -- jobs that this reply answers too
  store(ARGV[at], thread, ARGV[at + 1], '')
  redis.call('LREM', key(lane, thread), 0, ARGV[at])
end
leave(lane, thread, job)
return 1
