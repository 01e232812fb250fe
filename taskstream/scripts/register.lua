-- register: a consumer comes to life (before its first read).
-- Moves: none. Makes the group of both streams where missing, at 0, so that nothing sent earlier is skipped.
-- KEYS  1 stream  2 again  3 leases
-- ARGV  1 group  2 consumer  3 lease (ms)
-- Returns 1, or 0 if the name was used before (a consumer name is never used twice).
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[3])
for i = 1, 2 do
  local made = redis.pcall('XGROUP', 'CREATE', KEYS[i], ARGV[1], '0', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then
    return made
  end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZADD', KEYS[3], 'NX', now + ARGV[3], ARGV[2]) == 0 then
  return 0
end
redis.call('XGROUP', 'CREATECONSUMER', KEYS[1], ARGV[1], ARGV[2])
redis.call('XGROUP', 'CREATECONSUMER', KEYS[2], ARGV[1], ARGV[2])
return 1
