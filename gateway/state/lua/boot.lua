-- First boot: writes the policy only where there is none.
-- KEYS policy, audit; ARGV lineage, epoch, body, channel, audit entry
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'EXISTS'}
end
redis.call('HSET', KEYS[1], 'lineage', ARGV[1], 'epoch', ARGV[2], 'body', ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'epoch', ARGV[2], 'entry', ARGV[5])
redis.call('PUBLISH', ARGV[4], ARGV[2])
return {'OK', tonumber(ARGV[2])}
