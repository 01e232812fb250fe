-- feed: hand out what waits in a queue by its priority, without waiting for more.
-- Moves: waiting -> held, those in ranked through again. What has come back to again takes its place in ranked first.
-- KEYS  1 stream  2 again  3 ranked
-- ARGV  1 group  2 consumer  3 at most n  4 how many were handed out while others waited, since the oldest was last
-- Returns {what ARGV 4 is to be the next time, 1 if one of another priority than 5 was there, then flat 1|2 source,
-- entry id, fields}.
-- Order: 0 to 4, those of priority 5 that came back, the stream, 6 to 9; but every tenth is the oldest of all.
-- include: ranking
-- More than 1000 are not handed out at once.
local group, me, room, turn = ARGV[1], ARGV[2], math.min(tonumber(ARGV[3]), 1000), tonumber(ARGV[4])
local FAIR = 10
local SORTED = 500
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[3])
redis.call('ZCARD', KEYS[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply, used = {0, 0}, 0

local function read(source, count)
  local found = count > 0 and redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', KEYS[source], '>')
  return found and found[1][2] or {}
end

local function hand_out(source, rows)
  for _, row in ipairs(rows) do
    reply[#reply + 1] = source
    reply[#reply + 1] = row[1]
    reply[#reply + 1] = row[2]
  end
  room = room - #rows
  used = used + #rows
end

-- What has come back is sorted in.
local back, sorted = read(2, SORTED), {}
for _, row in ipairs(back) do
  if row[2] and #row[2] <= 1000 then
    rank(KEYS[3], row[2], now, tonumber(string.match(row[1], '^%d+')))
    sorted[#sorted + 1] = row[1]
  else
    hand_out(2, {row})
  end
end
if #sorted > 0 then
  redis.call('XACK', KEYS[2], group, unpack(sorted))
  redis.call('XDEL', KEYS[2], unpack(sorted))
end
if #back == SORTED then
  -- A flood, and what ranked hands out would stand behind it: sorting it all in would take the server too long.
  hand_out(2, read(2, room))
  if room <= 0 then
    return {turn, 1, unpack(reply, 3)}
  end
end

-- The first of ranked from one score to below another, at most count: into again, in that order.
local function move(from, below, count)
  local members = count > 0 and redis.call('ZRANGEBYSCORE', KEYS[3], string.format('%d', from),
    string.format('(%d', below), 'LIMIT', 0, count) or {}
  for at, member in ipairs(members) do
    local fields = decoded(member) or {'unreadable', member}
    if at == 1 and priority_of(fields) ~= 5 then
      reply[2] = 1
    end
    redis.call('XADD', KEYS[2], '*', unpack(fields))
  end
  if #members > 0 then
    redis.call('ZREM', KEYS[3], unpack(members))
  end
  return #members
end

-- When the next of the stream was put there, nil without one.
local function unread_since()
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
  for _, found in ipairs(groups.err and {} or groups) do
    -- name, <name>, consumers, <n>, pending, <n>, last-delivered-id, <id>
    if found[2] == group then
      local next = redis.call('XRANGE', KEYS[1], '(' .. found[8], '+', 'COUNT', 1)[1]
      return next and tonumber(string.match(next[1], '^%d+'))
    end
  end
end

local wanted = room
local function by_rank(count)
  local before = room
  hand_out(2, read(2, move(0, 6 * LEVEL, count)))
  count = count - before + room
  local main = count > 0 and redis.pcall('XREADGROUP', 'GROUP', group, me, 'COUNT', count, 'STREAMS', KEYS[1], '>')
  if main and main.err then
    return used == 0 and main
  end
  before = room
  hand_out(1, main and main[1][2] or {})
  hand_out(2, read(2, move(6 * LEVEL, 10 * LEVEL, count - before + room)))
end

local function oldest()
  local since, level = unread_since(), nil
  for each = 0, 9 do
    local first = redis.call('ZRANGEBYSCORE', KEYS[3], string.format('%d', each * LEVEL),
      string.format('(%d', (each + 1) * LEVEL), 'WITHSCORES', 'LIMIT', 0, 1)
    local sent = first[2] and first[2] - each * LEVEL
    if sent and (not since or sent < since) then
      since, level = sent, each
    end
  end
  if level then
    hand_out(2, read(2, move(level * LEVEL, (level + 1) * LEVEL, 1)))
  else
    hand_out(1, read(1, 1))
  end
end

local fair = math.floor((turn + room) / FAIR)
local failed = by_rank(room - fair)
if failed then
  return failed
end
if room == fair then
  for _ = 1, fair do
    oldest()
  end
end
if room > 0 then
  -- Nothing is left.
  turn = 0
elseif redis.call('ZCARD', KEYS[3]) > 0 or unread_since() then
  turn = (turn + wanted) % FAIR
else
  turn = 0
end
reply[1] = turn
return reply
