-- trim: remove from a stream what every group has done.
-- Moves: none; entries that any group has unread or pending stay, and without a group all of them do.
-- KEYS  1 stream
-- ARGV  1 examine at most n entries
-- Returns {n removed, name of the group that holds the oldest entry back or ''}.
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err or #groups == 0 then
  return {0, ''}
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
local oldest, pinned_by
for _, group in ipairs(groups) do
  -- name, <name>, consumers, <n>, pending, <n>, last-delivered-id, <id>
  local needed
  if group[6] > 0 then
    needed = redis.call('XPENDING', KEYS[1], group[2], '-', '+', 1)[1][1]
  end
  -- Unread ones come later than pending ones, unless an operator has set the group back to read them again.
  local unread = redis.call('XRANGE', KEYS[1], '(' .. group[8], '+', 'COUNT', 1)[1]
  if unread and (not needed or before(unread[1], needed)) then
    needed = unread[1]
  end
  if needed and (not oldest or before(needed, oldest)) then
    oldest, pinned_by = needed, group[2]
  end
end
if not oldest then
  -- Every group is through with everything. No id is beyond the last one, so that one is deleted by itself.
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  if not last[1] then
    return {0, ''}
  end
  local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', last[1][1], 'LIMIT', ARGV[1])
  if removed == 0 and redis.call('XLEN', KEYS[1]) <= tonumber(ARGV[1]) then
    removed = redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)
  end
  return {removed, ''}
end
local removed = redis.call('XTRIM', KEYS[1], 'MINID', '~', oldest, 'LIMIT', ARGV[1])
if removed == 0 then
  -- What is left before the oldest needed entry is less than a node of the stream.
  removed = redis.call('XTRIM', KEYS[1], 'MINID', oldest)
end
return {removed, pinned_by}
