-- open_chord: a chord begins: what follows it, and room for the values of its members. Moves no message.
-- KEYS  1 chord  2 the published key of what follows it
-- ARGV  1 how long it is kept (s)  2 number of members  3 what follows  4 headers for that
-- Returns 1, or 0 if it is open already, or what follows it has been published.
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('EXPIRE', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 1 then
  return 0
end
local new = 1 - redis.call('EXISTS', KEYS[1])
if new == 1 then
  redis.call('HSET', KEYS[1], 'total', ARGV[2], 'then', ARGV[3], 'headers', ARGV[4])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return new
