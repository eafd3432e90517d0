-- Latches one scope. Needs no epoch: a kill is never refused for being late. Repeating it changes nothing.
-- KEYS policy, audit; ARGV scope, latch, channel, audit entry
local stored = redis.call('HGET', KEYS[1], 'epoch')
if not stored then
  return {'ABSENT'}
end
if redis.call('HSETNX', KEYS[1], 'kill:' .. ARGV[1], ARGV[2]) == 0 then
  return {'SAME', tonumber(stored)}
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'epoch', epoch, 'entry', ARGV[4])
redis.call('PUBLISH', ARGV[3], epoch)
return {'OK', epoch}
