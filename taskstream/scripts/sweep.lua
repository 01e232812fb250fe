-- sweep: the leases of a group, for those who watch for consumers that died.
-- Moves: none. A consumer without a lease (the key was lost, or a stopped worker woke up and read) gets one lease
-- of grace, or what it holds would stay hidden for ever. That lease is nobody's: its score ends in .5, and no script
-- takes it for the consumer's own. Else one that lost its messages, and whose old connection read one more, would
-- find a lease again and could end what others hold by now.
-- No lease is longer than an hour, so one that seems to be was given before the clock was set back.
-- KEYS  1 stream  2 again  3 leases
-- ARGV  1 group  2 lease (ms)
-- Returns {consumer, score, consumer, score, ...}, at most 1000: taken and given up first, then the longest
-- without renewal.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[3])
for i = 1, 2 do
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[i])
  if not groups.err then
    for _, group in ipairs(groups) do
      -- name, <name>, consumers, <count>, ...: the order Redis and Valkey document and keep.
      if group[2] == ARGV[1] and group[4] ~= redis.call('ZCARD', KEYS[3]) then
        for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[i], ARGV[1])) do
          redis.call('ZADD', KEYS[3], 'NX', now + ARGV[2] + 0.5, consumer[2])
        end
      end
    end
  end
end
local hour = now + 3600000
for _, consumer in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. hour, '+inf', 'LIMIT', 0, 100)) do
  redis.call('ZADD', KEYS[3], 'XX', hour, consumer)
end
return redis.call('ZRANGE', KEYS[3], 0, 999, 'WITHSCORES')
