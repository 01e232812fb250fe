-- replay: what a group has done is to be run again, by that group and by no other.
-- Moves: done -> waiting (in the group's own stream).
-- KEYS  1 stream that still has the entries: the common one, or again  2 again  3 letters
-- ARGV  1 group  then for each message: entry id, message id, n, then n flat fields, none of them deliveries
-- Returns for each message 1 replayed · 0 left alone: unread, held or a dead letter by now.
-- Its deliveries go on at the seconds since 2025, which no message comes to by being handed out, so that its outcome
-- replaces that of every run before, and that of a later replay this one's.
local group = ARGV[1]
local deliveries = redis.call('TIME')[1] - 1735689600
local function number(text)
  return string.rep('0', 20 - #text) .. text
end
local function place(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  return number(ms) .. number(seq)
end
local read_to
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
for _, one in ipairs(groups.err and {} or groups) do
  if one[2] == group then
    read_to = place(one[8])
  end
end
local reply, at = {}, 2
while at <= #ARGV do
  local entry, id, n = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  if read_to and place(entry) <= read_to
    and not redis.call('XPENDING', KEYS[1], group, entry, entry, 1)[1]
    and redis.call('HEXISTS', KEYS[3], id) == 0 then
    local fields = {unpack(ARGV, at + 3, at + 2 + n)}
    fields[n + 1], fields[n + 2] = 'deliveries', string.format('%d', deliveries)
    redis.call('XADD', KEYS[2], '*', unpack(fields))
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
  at = at + 3 + n
end
return reply
