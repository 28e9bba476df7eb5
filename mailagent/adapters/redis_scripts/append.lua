-- Appends to the transcripts of one session. An entry whose uuid is there already is skipped; one that brings a manifest
-- makes a checkpoint of it and its own place. All transcripts of a session expire together: with its thread, or, of a
-- session that is no thread's, `retention` seconds after the last append to any of them. After thread and token of the
-- lease ("" and "" for such a session) come four for each entry: path ("" for the main transcript, else "/" and the
-- subpath), uuid or "", the entry, manifest or "". Returns 1, or 0 when the lease is another's.
local session, retention, thread, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local checkpoint = key('checkpoint', thread)

if thread ~= '' and not held('turns', thread, token) then
  return 0
end
for i = 5, #ARGV, 4 do
  local path, uuid, entry, manifest = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if uuid == '' or redis.call('SISMEMBER', key('seen', session .. path), uuid) == 0 then
    redis.call('RPUSH', key('log', session .. path), entry)
    if uuid ~= '' then
      redis.call('SADD', key('seen', session .. path), uuid)
    end
    if manifest ~= '' then
      redis.call('HSET', checkpoint, 'manifest', manifest, 'entries', redis.call('LLEN', key('log', session)))
    end
    redis.call('SADD', key('paths', session), path)
  end
end
local mine = { key('paths', session) }
for _, other in ipairs(redis.call('SMEMBERS', key('paths', session))) do
  table.insert(mine, key('log', session .. other))
  table.insert(mine, key('seen', session .. other))
end
if redis.call('EXISTS', checkpoint) == 1 then
  table.insert(mine, checkpoint)
end
join(thread, retention, mine)
return 1
