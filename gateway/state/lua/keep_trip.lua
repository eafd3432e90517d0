-- Replaces a latch by another of the same scope, if it is still the one that the caller has seen.
-- KEYS policy, audit; ARGV scope, latch that was seen, latch to keep, channel, audit entry
if redis.call('HGET', KEYS[1], 'kill:' .. ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'kill:' .. ARGV[1], ARGV[3])
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'epoch', epoch, 'entry', ARGV[5])
redis.call('PUBLISH', ARGV[4], epoch)
return 1
