-- Compare-and-set: writes the body and removes re-armed latches if nobody changed the policy meanwhile.
-- KEYS policy, audit; ARGV lineage, epoch, body, channel, audit entry, scopes to re-arm…
local stored = redis.call('HMGET', KEYS[1], 'lineage', 'epoch')
if not stored[1] or not stored[2] then
  return {'ABSENT'}
end
if stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then
  return {'STALE', tonumber(stored[2])}
end
redis.call('HSET', KEYS[1], 'body', ARGV[3])
for i = 6, #ARGV do
  redis.call('HDEL', KEYS[1], 'kill:' .. ARGV[i])
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'epoch', epoch, 'entry', ARGV[5])
redis.call('PUBLISH', ARGV[4], epoch)
return {'OK', epoch}
