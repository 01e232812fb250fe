-- requeue: dead letters are to be tried again, by the group they died in and by no other.
-- Moves: dead -> waiting (in the group's own stream). Deaths counted for them are forgotten.
-- KEYS  1 dead  2 letters  3 again  4 deaths
-- ARGV  for each letter: id, SHA1 (hex) of the letter as the caller read it, n, then n flat fields of the message
-- Returns for each letter 1 requeued · 0 left alone: gone, or another letter of that id by now.
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[1])
-- What a script did before one of its commands fails stays done, so keys of a wrong type have to show first.
redis.call('ZCARD', KEYS[1])
redis.call('HLEN', KEYS[4])
local reply, at = {}, 1
while at <= #ARGV do
  local id, n = ARGV[at], tonumber(ARGV[at + 2])
  local letter = redis.call('HGET', KEYS[2], id)
  if letter and redis.sha1hex(letter) == ARGV[at + 1] then
    redis.call('XADD', KEYS[3], '*', unpack(ARGV, at + 3, at + 2 + n))
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    redis.call('HDEL', KEYS[4], id, id .. ' why')
    reply[#reply + 1] = 1
  else
    reply[#reply + 1] = 0
  end
  at = at + 3 + n
end
return reply
