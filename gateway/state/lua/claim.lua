-- Whether a lease is the caller's: it was free, or was the caller's already. Lengthens it then.
-- KEYS lease; ARGV caller, milliseconds
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
