-- unpark: look after the messages that wait for a slot of one limit, so that none waits for ever, whatever became of
-- those that had the slots.
-- Moves: parked -> waiting (in the group's own stream), each with a slot of its own, as many as there are free ones.
-- KEYS  1 stream  2 again  3 slots  4 parked  5 parking
-- ARGV  1 group  2 name of the limit  3 how long a slot is kept while no other is taken (s)
-- Returns {slots that were free because nobody held them any more, messages let go}.
local most = tonumber(redis.call('HGET', KEYS[5], ARGV[2]) or 1) or 1
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[5])
local stale, gone = 0, 0
local function is_pending(key, entry)
  local pending = redis.pcall('XPENDING', key, ARGV[1], entry, entry, 1)
  return not pending.err and #pending > 0
end
-- An entry that is done may stay in the group's own stream for a while, so being there is not enough.
local read_to = '-'
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[2])
for _, group in ipairs(groups.err and {} or groups) do
  if group[2] == ARGV[1] then
    read_to = '(' .. group[8]
  end
end
local function is_unread(entry)
  local last = redis.call('XREVRANGE', KEYS[2], entry, read_to, 'COUNT', 1)[1]
  return last ~= nil and last[1] == entry
end
local holders = redis.call('HGETALL', KEYS[3])
for i = 1, #holders, 2 do
  local source, entry = string.match(holders[i + 1], '^([12]) (%d+%-%d+)$')
  local held = false
  if source == '1' then
    held = is_pending(KEYS[1], entry)
  elseif source == '2' then
    -- Before it is read, the slot waits with it.
    held = is_pending(KEYS[2], entry) or is_unread(entry)
  end
  if not held then
    redis.call('HDEL', KEYS[3], holders[i])
    stale = stale + 1
  end
end
-- As in commit.
while redis.call('HLEN', KEYS[3]) < most do
  local member = redis.call('LINDEX', KEYS[4], 0)
  if not member then
    break
  end
  local ok, fields = pcall(cjson.decode, member)
  ok = ok and type(fields) == 'table' and #fields >= 2 and #fields % 2 == 0 and #fields <= 1000
  local id
  for f = 1, ok and #fields or 0 do
    ok = ok and type(fields[f]) == 'string'
    if f % 2 == 1 and fields[f] == 'id' then
      id = fields[f + 1]
    end
  end
  if not ok then
    fields = {'unreadable', member}
  end
  local entry = redis.call('XADD', KEYS[2], '*', unpack(fields))
  redis.call('LPOP', KEYS[4])
  if ok and id then
    redis.call('HSET', KEYS[3], id, '2 ' .. entry)
    redis.call('EXPIRE', KEYS[3], ARGV[3])
  end
  gone = gone + 1
end
if redis.call('EXISTS', KEYS[4]) == 0 then
  redis.call('HDEL', KEYS[5], ARGV[2])
end
return {stale, gone}
