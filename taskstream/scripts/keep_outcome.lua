-- Keep one outcome, unless the record there is from a later delivery. Moves no message.
-- KEYS[1]  hash of the message's outcomes: group -> "<delivery> <outcome>"
-- ARGV[1]  group
-- ARGV[2]  delivery number
-- ARGV[3]  outcome: JSON, a large one compressed by zlib
-- ARGV[4]  time to live of the hash (ms)
-- Returns 1 if kept, 0 if a later one is there.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and tonumber(string.match(known, '^%d+')) > tonumber(ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
