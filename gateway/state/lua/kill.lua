-- Latches one scope. Needs no epoch: a kill is never refused for being late. Repeating it changes nothing.
-- KEYS policy, audit, trips; ARGV scope, latch, channel, audit entry, record of the trip or '', how many are kept
local stored = redis.call('HGET', KEYS[1], 'epoch')
if not stored then
  return {'ABSENT'}
end
local function keep_record()
  -- Once, however often it is told: an answer may have been lost, and its latch re-armed meanwhile.
  if ARGV[5] ~= '' and not redis.call('LPOS', KEYS[3], ARGV[5]) then
    redis.call('LPUSH', KEYS[3], ARGV[5])
    redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[6]) - 1)
  end
end
if redis.call('HSETNX', KEYS[1], 'kill:' .. ARGV[1], ARGV[2]) == 0 then
  if redis.call('HGET', KEYS[1], 'kill:' .. ARGV[1]) == ARGV[2] then
    -- This very trip: a write-back brought its latch, which has no records.
    keep_record()
  end
  return {'SAME', tonumber(stored)}
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'epoch', epoch, 'entry', ARGV[4])
-- Of replicas that trip at once the first one's record is kept: the one that the latch names.
keep_record()
redis.call('PUBLISH', ARGV[3], epoch)
return {'OK', epoch}
