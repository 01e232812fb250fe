-- purge: dead letters are given up by whoever operates the group.
-- Moves: dead -> gone.
-- KEYS  1 dead  2 letters
-- ARGV  for each letter: id, SHA1 (hex) of the letter as the caller read it (of nothing where only its time was left)
-- Returns for each letter 1 purged · 0 left alone: gone, or another letter of that id by now.
local reply = {}
for at = 1, #ARGV, 2 do
  local id = ARGV[at]
  local gone = 0
  if redis.sha1hex(redis.call('HGET', KEYS[2], id) or '') == ARGV[at + 1] then
    gone = math.max(redis.call('ZREM', KEYS[1], id), redis.call('HDEL', KEYS[2], id))
  end
  reply[#reply + 1] = gone
end
return reply
