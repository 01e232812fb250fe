-- commit: the fenced end of a batch of messages that one consumer held.
-- Moves: held -> done (ack), held -> delayed (retry), held -> waiting (give back), held -> dead (bury). With the end of a
-- message the next one of its ordering key: waiting for its turn -> waiting. Held -> parked, where all slots of its limit
-- are taken; whatever frees a slot lets the first that is parked for it go: parked -> waiting, with that slot.
-- KEYS  1 stream  2 again  3 leases  4 delayed  5 deaths  6 dead  7 letters  8 watched  then those of ties
-- ARGV  1 group  2 consumer  3 channel for finished ids  4 finished ids, separated by spaces, or ''
--       5 n acks of the stream  6 n acks of again  7 '1' if what is done is kept for a while (trim ends that), else ''
--       then those entry ids, then moves of seven:
--       kind, 1|2 stream or again, entry id, message id, a, b, ties
--         'a' ack                     a, b unused
--         'r' retry                   a delay (ms) or '@' and the time (ms), b fields as JSON
--         'g' give back               a unused,     b fields as JSON
--         'd' dead letter             a unused,     b letter as JSON
--         'w' wait for a slot         a unused,     b fields as JSON, and a tie 'slot'
--       'a' and 'd' also forget counted deaths, they and 'r' why an earlier run was ended
--       ties '' or as JSON [[what, argument, numbers of its keys...], ...], see TIES
-- Returns {-1} and does nothing if the consumer's lease is missing, given up, taken or only one of grace (see sweep); else {1, 1 if watched}.
-- XACK ignores who owns an entry, so the lease is the fence. Under a live lease an XACK that answers 0 means
-- that an earlier commit of this consumer landed and its reply was lost: its other half landed with it.
local group, consumer = ARGV[1], ARGV[2]
local score = redis.call('ZSCORE', KEYS[3], consumer)
if not score or tonumber(score) < 2 or tonumber(score) % 1 ~= 0 then
  return {-1}
end

-- An entry of the stream may go as soon as it is done if this group is the only one; seen here, inside the
-- script, because a group created between a check and the removal would find nothing.
local removable = {false, ARGV[7] == ''}
local groups = removable[2] and redis.pcall('XINFO', 'GROUPS', KEYS[1]) or {}
if not groups.err and #groups == 1 and groups[1][2] == group then
  removable[1] = true
end

local n = {tonumber(ARGV[5]), tonumber(ARGV[6])}
local at = 8
for source = 1, 2 do
  if n[source] > 0 then
    redis.call('XACK', KEYS[source], group, unpack(ARGV, at, at + n[source] - 1))
    if removable[source] then
      redis.call('XDEL', KEYS[source], unpack(ARGV, at, at + n[source] - 1))
    end
    at = at + n[source]
  end
end

local function told()
  local watched = redis.call('EXISTS', KEYS[8])
  if watched == 1 and ARGV[4] ~= '' then
    redis.call('PUBLISH', ARGV[3], ARGV[4])
  end
  return {1, watched}
end

-- Nearly every batch is acks and nothing else; what follows makes a dozen functions first.
if at > #ARGV then
  return told()
end

-- include: ranking
-- include: ordered
-- include: turns

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Of the move that is being made: where the message was held, and b.
local held_at, payload

-- What a tie does with a move: of which kind, with which delay (ms), its argument and its keys.
local TIES = {
  -- The argument is the message's id. Its end lets the next one of its key come; KEYS order, ordered.
  order = function(kind, delay, id, order, ordered)
    if (kind ~= 'a' and kind ~= 'd') or redis.call('LINDEX', order, 0) ~= id then
      return
    end
    next_turn(order, ordered)
  end,
  -- The argument is the message's id. Its end lets the same call be sent again; KEYS published.
  unique = function(kind, delay, id, published)
    if redis.call('GET', published) ~= id then
      return
    end
    if kind == 'a' or kind == 'd' then
      redis.call('DEL', published)
    elseif delay > 0 then
      -- The time until it is tried again does not count.
      redis.call('PEXPIRE', published, string.format('%d', redis.call('PTTL', published) + delay))
    end
  end,
  -- The argument is the message's id, how many slots there are, the limit's name and how long (s) a slot is kept while no
  -- other is taken. Any end frees the slot that the message has here; 'w' joins those that wait for one. KEYS slots,
  -- parked, parking.
  slot = function(kind, delay, argument, slots, parked, parking)
    local id, most, limit, kept = string.match(argument, '^(%S+) (%d+) (%S+) (%d+)$')
    if kind == 'w' then
      redis.call('RPUSH', parked, payload)
      redis.call('HSET', parking, limit, most)
    elseif redis.call('HGET', slots, id) == held_at then
      redis.call('HDEL', slots, id)
    end
    -- As in unpark. The first that waits gets the slot here, or a later one could take it first.
    while redis.call('HLEN', slots) < tonumber(most) do
      local member = redis.call('LINDEX', parked, 0)
      if not member then
        break
      end
      local next_id, entry = put_again(member)
      redis.call('LPOP', parked)
      if next_id then
        redis.call('HSET', slots, next_id, '2 ' .. entry)
        redis.call('EXPIRE', slots, kept)
      end
    end
    if redis.call('EXISTS', parked) == 0 then
      redis.call('HDEL', parking, limit)
    end
  end,
}
local KINDS = {order = {'list', 'hash'}, unique = {'string'}, slot = {'hash', 'list', 'hash'}}

-- Looked at before the first move: one that fails half-way has been acknowledged and is nowhere.
local function wrong(i, kind)
  local found = redis.call('TYPE', KEYS[i]).ok
  if found ~= kind and found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. KEYS[i] .. ' is a ' .. found .. ' and should be a ' .. kind)
  end
end
for i, kind in pairs({[2] = 'stream', [4] = 'zset', [5] = 'hash', [6] = 'zset', [7] = 'hash'}) do
  local problem = wrong(i, kind)
  if problem then
    return problem
  end
end
local ties = {}
for move = at, #ARGV, 7 do
  if ARGV[move + 6] ~= '' then
    ties[move] = cjson.decode(ARGV[move + 6])
    for _, tie in ipairs(ties[move]) do
      for i, kind in ipairs(KINDS[tie[1]]) do
        local problem = wrong(tie[i + 2], kind)
        if problem then
          return problem
        end
      end
    end
  end
end

while at <= #ARGV do
  local kind, source, entry, id = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3]
  local delay = 0
  if redis.call('XACK', KEYS[source], group, entry) == 1 then
    held_at, payload = source .. ' ' .. entry, ARGV[at + 5]
    if kind == 'r' then
      local when = ARGV[at + 4]
      local due = string.sub(when, 1, 1) == '@' and string.sub(when, 2) or now + when
      delay = math.max(0, due - now)
      redis.call('ZADD', KEYS[4], due, ARGV[at + 5])
      redis.call('HDEL', KEYS[5], id .. ' why')
    elseif kind == 'g' then
      put_again(ARGV[at + 5])
    elseif kind ~= 'w' then
      if kind == 'd' then
        redis.call('ZADD', KEYS[6], now, id)
        redis.call('HSET', KEYS[7], id, ARGV[at + 5])
      end
      redis.call('HDEL', KEYS[5], id, id .. ' why')
    end
    if removable[source] then
      redis.call('XDEL', KEYS[source], entry)
    end
    for _, tie in ipairs(ties[at] or {}) do
      local tied = {}
      for i = 3, #tie do
        tied[#tied + 1] = KEYS[tie[i]]
      end
      TIES[tie[1]](kind, delay, tie[2], unpack(tied))
    end
  end
  at = at + 7
end

return told()
