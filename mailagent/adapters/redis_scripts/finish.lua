-- Stores a job's last stage and takes it out of its lane; one that is sent may have come back meanwhile. Returns 1, or 0
-- when the lease is another's.
local lane, thread, token, job, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local place, retention = ARGV[6], ARGV[7]

if not held(lane, thread, token) then
  return 0
end
local returned = place == '' and redis.call('HGET', key('job', job), 'returned')
if returned then
  body, place = returned, 'bounced'
end
store(job, thread, body, place)
leave(lane, thread, job)
rest(thread, retention)
return 1
