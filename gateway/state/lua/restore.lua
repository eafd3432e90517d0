-- Writes back a remembered policy after a loss: only where there is none or an older one of the same lineage.
-- KEYS policy, audit; ARGV lineage, epoch, body, channel, audit entry, foreign lineage that may go or '', scope, latch,
-- scope, latch…
local stored = redis.call('HMGET', KEYS[1], 'lineage', 'epoch')
local foreign = stored[1] and stored[1] ~= ARGV[1] and stored[1] ~= ARGV[6]
if foreign or (tonumber(stored[2] or 0) or 0) >= tonumber(ARGV[2]) then
  return {'REFUSED', tonumber(stored[2])}
end
-- Latches that stand here stay: a kill is never lost to a write-back.
redis.call('HSET', KEYS[1], 'lineage', ARGV[1], 'epoch', ARGV[2], 'body', ARGV[3])
for i = 7, #ARGV, 2 do
  redis.call('HSET', KEYS[1], 'kill:' .. ARGV[i], ARGV[i + 1])
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'epoch', ARGV[2], 'entry', ARGV[5])
redis.call('PUBLISH', ARGV[4], ARGV[2])
return {'OK', tonumber(ARGV[2])}
