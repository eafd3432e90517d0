-- Replaces the accepted relaxations if their version is still the one that the caller read.
-- KEYS[1] the relaxations; ARGV[1] version that was read, 0 for none; ARGV[2] the new JSON.
local stored = redis.call('GET', KEYS[1])
local version = 0
if stored then
  version = cjson.decode(stored)['version']
end
if version ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
