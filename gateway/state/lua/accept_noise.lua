-- Replaces the accepted relaxations if their version is still the one that the caller read.
-- KEYS[1] the relaxations; ARGV[1] version that was read, 0 for none; ARGV[2] the new JSON.
local stored = redis.call('GET', KEYS[1])
local version = 0
if stored then
  -- What cannot be read relaxes nothing, and may be replaced.
  local ok, document = pcall(cjson.decode, stored)
  if ok and type(document) == 'table' and type(document['version']) == 'number' then
    version = document['version']
  end
end
if version ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
