-- Stores a job's last stage and takes it out of its lane. Returns 1, or 0 when the lease is another's.
local lane, thread, token, job, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local place, retention = ARGV[6], ARGV[7]

if not held(lane, thread, token) then
  return 0
end
store(job, thread, body, place)
leave(lane, thread, job)
rest(thread, retention)
return 1
