-- Says that a manifest belongs to the end of a transcript, of a turn that has told its sender what was lost. Returns 1,
-- or 0 when the lease is another's.
local session, thread, token, retention, manifest = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local checkpoint = key('checkpoint', thread)

if not held('turns', thread, token) then
  return 0
end
redis.call('HSET', checkpoint, 'manifest', manifest, 'entries', redis.call('LLEN', key('log', session)))
redis.call('HDEL', checkpoint, 'lost')
join(thread, retention, { checkpoint })
return 1
