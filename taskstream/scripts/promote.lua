-- promote: what is due becomes readable.
-- Moves: delayed -> waiting (in the group's own stream).
-- KEYS  1 delayed  2 again
-- ARGV  1 at most n
-- Returns {n moved, ms until the next is due or -1}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[1])
for _, member in ipairs(due) do
  local ok, fields = pcall(cjson.decode, member)
  ok = ok and type(fields) == 'table' and #fields >= 2 and #fields % 2 == 0 and #fields <= 1000
  for i = 1, ok and #fields or 0 do
    ok = ok and type(fields[i]) == 'string'
  end
  if not ok then
    -- Nothing of ours: let it become a dead letter like any other unreadable entry.
    fields = {'unreadable', member}
  end
  redis.call('XADD', KEYS[2], '*', unpack(fields))
  redis.call('ZREM', KEYS[1], member)
end
local next_due = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not next_due[1] then
  return {#due, -1}
end
return {#due, math.max(0, tonumber(next_due[2]) - now)}
