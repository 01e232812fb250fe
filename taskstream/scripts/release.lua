-- release: a consumer ends; by itself when it is done, or by its supervisor after the process died.
-- Moves: none. With nothing pending it is removed at once, else its lease is given up for others to take over.
-- KEYS  1 stream  2 again  3 leases  4 deaths
-- ARGV  1 group  2 consumer  3 how long a death is remembered (s)  then pairs: id of a message that had started,
--       '' to count a death or why its run was ended on purpose, which claim hands on
-- Returns 1 removed · 0 given up · -1 it was given up, taken or removed before, or has only a lease of grace (see sweep).
local group, consumer = ARGV[1], ARGV[2]
local score = redis.call('ZSCORE', KEYS[3], consumer)
if not score or tonumber(score) < 2 or tonumber(score) % 1 ~= 0 then
  return -1
end
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[3])
for i = 4, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    -- What is no number was not written by us.
    redis.call('HSET', KEYS[4], ARGV[i], (tonumber(redis.call('HGET', KEYS[4], ARGV[i]) or 0) or 0) + 1)
  else
    redis.call('HSET', KEYS[4], ARGV[i] .. ' why', ARGV[i + 1])
  end
  redis.call('EXPIRE', KEYS[4], ARGV[3])
end
for i = 1, 2 do
  local pending = redis.pcall('XPENDING', KEYS[i], group, '-', '+', 1, consumer)
  if not pending.err and #pending > 0 then
    redis.call('ZADD', KEYS[3], 'XX', 1, consumer)
    return 0
  end
end
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], group, consumer)
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], group, consumer)
redis.call('ZREM', KEYS[3], consumer)
return 1
