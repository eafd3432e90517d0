-- Adds up what one process has found since it last wrote, once: a call whose answer was lost may come again.
-- KEYS groups by when they were last seen, the process's mark; ARGV number of the call, seconds that the mark is kept,
-- groups that are kept, seconds that they are, example requests that are kept, then the groups as JSON
local number = tonumber(ARGV[1])
if (tonumber(redis.call('GET', KEYS[2])) or 0) >= number then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
for i = 6, #ARGV do
  -- Times are strings: cjson would cut their digits.
  local group = cjson.decode(ARGV[i])
  local key = KEYS[1] .. ':' .. group.signature
  local stored = redis.call('HMGET', key, 'first', 'last', 'requests')
  local first, last = group.first, group.last
  if stored[1] and tonumber(stored[1]) < tonumber(first) then
    first = stored[1]
  end
  if stored[2] and tonumber(stored[2]) > tonumber(last) then
    last = stored[2]
  end
  local requests, seen = {}, {}
  local known, before = pcall(cjson.decode, stored[3] or '[]')
  for _, list in ipairs({group.requests, known and type(before) == 'table' and before or {}}) do
    for j = #list, 1, -1 do
      if #requests < tonumber(ARGV[5]) and not seen[list[j]] then
        seen[list[j]] = true
        table.insert(requests, 1, list[j])
      end
    end
  end
  redis.call('HSET', key, 'what', group.what, 'first', first, 'last', last, 'requests', cjson.encode(requests))
  for name, count in pairs(group.counts) do
    redis.call('HINCRBY', key, name, count)
  end
  redis.call('EXPIRE', key, ARGV[4])
  redis.call('ZADD', KEYS[1], last, group.signature)
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3])
if over > 0 then
  local gone = redis.call('ZPOPMIN', KEYS[1], over)
  for i = 1, #gone, 2 do
    redis.call('DEL', KEYS[1] .. ':' .. gone[i])
  end
end
return 1
