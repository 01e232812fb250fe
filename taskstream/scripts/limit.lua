-- limit: may a message that a consumer holds run now? If so its slot is taken and its start is noted.
-- Moves: none. Nothing is taken or noted unless both the slot and the rate allow it, but for the time it is told to come.
-- KEYS  1 slots  2 rate
-- ARGV  1 message id  2 '1|2 entry id', where it is held  3 slots there are (0: any number)  4 least time between two
--       starts (us; 0: none)  5 when it was told to come (us since the epoch), 0 if it was not
--       6 how long a slot is kept while no other is taken (s)
-- Returns {1, us} run after that time · {0, us, time} come in so long, which is at that time (us since the epoch) ·
-- {2} no slot is free.
-- Who must wait is told times as far apart as starts have to be, so that it is asked once more, at that time. Starts are
-- kept apart all the same: what comes late, and all at once after an outage, finds the others in its way.
local NEAR = 250000 -- us: what is waited for without being put back
local most, apart = tonumber(ARGV[3]), tonumber(ARGV[4])
if most > 0 and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 and redis.call('HLEN', KEYS[1]) >= most then
  return {2}
end
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[1])
local wait = 0
if apart > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local known = redis.call('HMGET', KEYS[2], 'tail', 'last')
  for i = 1, 2 do
    -- What is no time of this or the next hundred years was not written by us.
    local at = tonumber(known[i] or 0)
    known[i] = at and at >= 0 and at < now + 3.2e15 and at or 0
  end
  -- The next time that nobody was told, and the last start.
  local tail = known[1]
  local free = known[2] + apart
  local at = tonumber(ARGV[5])
  if at == 0 or at >= tail then
    at = math.max(now, tail, free)
    tail = at + apart
  end
  local start = math.max(now, at, free)
  local goes = start <= now + NEAR
  if goes then
    tail = math.max(tail, start + apart)
    redis.call('HSET', KEYS[2], 'tail', string.format('%.0f', tail), 'last', string.format('%.0f', start))
  else
    if start > at then
      -- Too late for the time it was told: at the end of all.
      at = math.max(tail, start)
      tail = at + apart
    end
    redis.call('HSET', KEYS[2], 'tail', string.format('%.0f', tail))
  end
  redis.call('PEXPIRE', KEYS[2], math.ceil((tail - now) / 1000) + 1000)
  if not goes then
    if most > 0 then
      redis.call('EXPIRE', KEYS[1], ARGV[6])
    end
    return {0, at - now, string.format('%.0f', at)}
  end
  wait = start - now
end
if most > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[6])
end
return {1, wait}
