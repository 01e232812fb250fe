-- promote: what is due becomes readable.
-- Moves: delayed -> waiting (in the group's own stream; with another priority than 5 in ranked).
-- KEYS  1 delayed  2 again  3 ranked
-- ARGV  1 at most n  2 a channel and what to say there when something comes into ranked, where nothing was
-- Returns {n moved, ms until the next is due or -1}.
-- include: ranking
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[1])
local silent = redis.call('ZCARD', KEYS[3]) == 0
for _, member in ipairs(due) do
  -- Nothing of ours: let it become a dead letter like any other unreadable entry.
  local fields = decoded(member) or {'unreadable', member}
  if priority_of(fields) == 5 then
    redis.call('XADD', KEYS[2], '*', unpack(fields))
  else
    rank(KEYS[3], fields, now, now)
    if silent then
      ring(ARGV[2])
      silent = false
    end
  end
  redis.call('ZREM', KEYS[1], member)
end
local next_due = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not next_due[1] then
  return {#due, -1}
end
return {#due, math.max(0, tonumber(next_due[2]) - now)}
