-- unstick: messages wait for their turn, and there is nothing else in the queue: whoever's turn it was has been deleted
-- by hand, and nothing would ever end it.
-- Moves: waiting for its turn -> waiting (in the group's own stream), the first of each order.
-- KEYS  1 stream  2 again  3 delayed  4 ranked  5 parking  6 ordered  then lists of order
-- ARGV  1 group
-- Returns -1 and does nothing if there is something in the queue, else the number of orders that go on.
-- include: ranking
-- include: ordered
-- include: turns
for source = 1, 2 do
  local last = '-'
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[source])
  for _, found in ipairs(groups.err and {} or groups) do
    -- name, <name>, consumers, <n>, pending, <n>, last-delivered-id, <id>
    if found[2] == ARGV[1] then
      last = '(' .. found[8]
      if found[6] > 0 then
        return -1
      end
    end
  end
  if #redis.call('XRANGE', KEYS[source], last, '+', 'COUNT', 1) > 0 then
    return -1
  end
end
if redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) > 0 then
  return -1
end
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[6])
local moved = 0
for i = 7, #KEYS do
  if redis.call('LLEN', KEYS[i]) > 1 then
    next_turn(KEYS[i], KEYS[6])
    moved = moved + 1
  else
    -- Deleted by hand, too: none waits there.
    count_waiting(KEYS[6], KEYS[i], -(tonumber(redis.call('HGET', KEYS[6], KEYS[i]) or 0) or 0))
  end
end
return moved
