-- forget: dead letters past their retention go, the oldest first.
-- Moves: dead -> gone.
-- KEYS  1 dead  2 letters
-- ARGV  1 retention (ms)  2 at most n
-- Returns how many went.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[1], 'LIMIT', 0, ARGV[2])
if #old > 0 then
  redis.call('ZREM', KEYS[1], unpack(old))
  redis.call('HDEL', KEYS[2], unpack(old))
end
return #old
