-- trim: remove from a stream what every group has done, and from the group's own what it has done.
-- Moves: none; entries that any group has unread or pending stay, and without a group all of them do. So do those
-- that are younger than a group wants to keep what is done; the group's own stream is kept as long as it says itself.
-- KEYS  1 stream  2 again  3 hash of how long groups keep what is done
-- ARGV  1 examine at most n entries of each stream  2 group  3 how long it keeps what is done (ms)
-- Returns {n removed, name of the group that holds the oldest entry of the stream back or ''}.
local mine, most = tonumber(ARGV[3]), tonumber(ARGV[1])
if mine > 0 then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
else
  redis.call('HDEL', KEYS[3], ARGV[2])
end
local keep = 0
for _, wanted in ipairs(redis.call('HVALS', KEYS[3])) do
  -- More than a hundred years, or what is no number, was not written by us.
  local ms = tonumber(wanted) or 0
  keep = ms < 3.2e12 and math.max(keep, ms) or keep
end
if keep > 0 then
  -- Groups whose workers are gone are to be forgotten some day, not before what they keep.
  redis.call('PEXPIRE', KEYS[3], keep + 86400000)
end
local time = redis.call('TIME')
local function floor_of(ms)
  return ms > 0 and string.format('%d-0', math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - ms)) or nil
end
local function before(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
  -- As text of equal length, because sequence numbers may exceed what a Lua number holds exactly.
  if #a_ms ~= #b_ms then return #a_ms < #b_ms end
  if a_ms ~= b_ms then return a_ms < b_ms end
  if #a_seq ~= #b_seq then return #a_seq < #b_seq end
  return a_seq < b_seq
end

local function trimmed(stream, floor)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if groups.err or #groups == 0 then
    return 0, ''
  end
  local oldest, pinned_by = floor, ''
  for _, group in ipairs(groups) do
    -- name, <name>, consumers, <n>, pending, <n>, last-delivered-id, <id>
    local needed
    if group[6] > 0 then
      needed = redis.call('XPENDING', stream, group[2], '-', '+', 1)[1][1]
    end
    -- Unread ones come later than pending ones, unless an operator has set the group back to read them again.
    local unread = redis.call('XRANGE', stream, '(' .. group[8], '+', 'COUNT', 1)[1]
    if unread and (not needed or before(unread[1], needed)) then
      needed = unread[1]
    end
    if needed and (not oldest or before(needed, oldest)) then
      oldest, pinned_by = needed, group[2]
    end
  end
  if not oldest then
    -- Every group is through with everything. No id is beyond the last one, so that one is deleted by itself.
    local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
    if not last[1] then
      return 0, ''
    end
    local removed = redis.call('XTRIM', stream, 'MINID', '~', last[1][1], 'LIMIT', most)
    if removed == 0 and redis.call('XLEN', stream) <= most then
      removed = redis.call('XTRIM', stream, 'MAXLEN', 0)
    end
    return removed, ''
  end
  local removed = redis.call('XTRIM', stream, 'MINID', '~', oldest, 'LIMIT', most)
  if removed == 0 then
    -- What is left before the oldest needed entry is less than a node of the stream.
    removed = redis.call('XTRIM', stream, 'MINID', oldest)
  end
  return removed, pinned_by
end

local removed, pinned_by = trimmed(KEYS[1], floor_of(keep))
local own = trimmed(KEYS[2], floor_of(mine))
return {math.max(removed, own), pinned_by}
