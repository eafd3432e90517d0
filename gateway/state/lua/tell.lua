-- Notes in the audit what changed nothing, once for all processes and a while.
-- KEYS told, audit, trips; ARGV when, seconds, audit entry, record of the trip, how many are kept
if not redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2], 'NX') then
  return 0
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 100000, '*', 'entry', ARGV[3])
if ARGV[4] ~= '' then
  redis.call('LPUSH', KEYS[3], ARGV[4])
  redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[5]) - 1)
end
return 1
