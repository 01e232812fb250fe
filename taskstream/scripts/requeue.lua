-- requeue: dead letters are to be tried again, by the group they died in and by no other.
-- Moves: dead -> waiting (in the group's own stream); behind what there is of its ordering key dead -> waiting for its
-- turn. Deaths counted for them are forgotten.
-- KEYS  1 dead  2 letters  3 again  4 deaths  then those of ties of each letter in turn
-- ARGV  for each letter: id, SHA1 (hex) of the letter as the caller read it, number of its ties, these,
--       n, then n flat fields of the message. The ties, and the keys of each:
--         'order'     order, ordered
--         'unique'    published
-- Returns for each letter 1 requeued · 0 left alone: gone, or another letter of that id by now · 2 left alone: the same
-- call of a unique task waits or runs.
-- include: ordered
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[1])
-- What a script did before one of its commands fails stays done, so keys of a wrong type have to show first.
redis.call('ZCARD', KEYS[1])
redis.call('HLEN', KEYS[4])
local REMEMBER_S = 24 * 3600
local reply, at, key = {}, 1, 5
while at <= #ARGV do
  local id, sha, ties = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local order, ordered, unique
  for i = at + 3, at + 2 + ties do
    if ARGV[i] == 'order' then
      order, ordered = KEYS[key], KEYS[key + 1]
      key = key + 2
    else
      unique = KEYS[key]
      key = key + 1
    end
  end
  at = at + 3 + ties
  local first, last = at + 1, at + tonumber(ARGV[at])
  at = last + 1
  local letter = redis.call('HGET', KEYS[2], id)
  local holder = unique and redis.call('GET', unique)
  if not letter or redis.sha1hex(letter) ~= sha then
    reply[#reply + 1] = 0
  elseif holder and holder ~= id then
    reply[#reply + 1] = 2
  else
    if order and redis.call('LLEN', order) > 0 then
      count_waiting(ordered, order, 1)
      redis.call('RPUSH', order, cjson.encode({unpack(ARGV, first, last)}))
    else
      redis.call('XADD', KEYS[3], '*', unpack(ARGV, first, last))
      if order then
        redis.call('RPUSH', order, id)
      end
    end
    if unique then
      redis.call('SET', unique, id, 'EX', REMEMBER_S)
    end
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    redis.call('HDEL', KEYS[4], id, id .. ' why')
    reply[#reply + 1] = 1
  end
end
return reply
