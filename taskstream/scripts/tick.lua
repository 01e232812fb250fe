-- tick: keep which tick of a schedule was launched last.
-- Moves: none; the message of a tick is published between two calls, under an id made of the tick (publish).
-- KEYS  1 ticks  2 published, of the id of this tick
-- ARGV  1 name of the schedule  2 a tick that is due (ms since the epoch)  3 '1' it was launched, '0' is it to be?
--       4 a schedule that nobody asked for so long is forgotten (ms)  5 how long a tick that was launched is remembered by
--       its id (s): for who asked before that was said, and has not sent it yet
-- Returns 1 launch it, then say so · 0 nothing to do: launched, or the schedule was not known before, and begins with the
-- next tick · -1 it is not due by this clock.
-- A value is the tick, then when it was last asked for.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local tick = tonumber(ARGV[2])
if tick > now then
  return -1
end
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[1])
local known = redis.call('HGET', KEYS[1], ARGV[1])
local last = known and tonumber(string.match(known, '^%d+'))
if not last then
  -- Seldom, with each release that changes a schedule: now others may be gone.
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local asked = tonumber(string.match(all[i + 1], '^%d+ (%d+)$') or 0)
    if asked < now - ARGV[4] then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
local launch = ARGV[3] == '0' and last and last < tick
if not launch then
  last = math.max(last or 0, tick)
end
if ARGV[3] == '1' then
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f', last, now))
return launch and 1 or 0
