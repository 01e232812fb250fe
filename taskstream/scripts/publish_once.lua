-- publish_once: publish under a caller's key, unless that was done before.
-- Moves: nowhere -> waiting.
-- KEYS  1 stream  2 published
-- ARGV  1 how long the key is remembered (s)  2 message id  then flat fields
-- Returns the id published under this key, now or before.
local known = redis.call('GET', KEYS[2])
if known then
  return known
end
redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[1])
return ARGV[2]
