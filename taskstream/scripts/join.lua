-- join: members of one chord have ended: keep their values, each once, and say what follows when that is to happen now.
-- Moves no message: the caller publishes what follows, under its id, before the member is acknowledged. So a caller
-- that dies in between leaves a member that runs again and joins again, to the same answer.
-- KEYS  1 chord  2 the published key of the news that a member failed
-- ARGV  1 how long the chord is kept from now on (s)  then per member: its place from 0, 'v' its value | 'f' it failed, the value or ''
-- Returns {-1} there is no such chord (any more) · {0} others are to come · {1, what follows, its headers, values...} all
-- are there, in order · {2, what follows, its headers} a member failed, and that has not been told.
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('EXPIRE', KEYS[1], ARGV[1])
local head = redis.call('HMGET', KEYS[1], 'total', 'then', 'headers')
local total = tonumber(head[1] or 'nan')
if not total or total ~= total or not head[2] or not head[3] then
  return {-1}
end
local failed = false
for at = 2, #ARGV, 3 do
  local place = tonumber(ARGV[at])
  if place and place >= 0 and place < total and place % 1 == 0 then
    if ARGV[at + 1] == 'v' then
      redis.call('HSETNX', KEYS[1], string.format('%d', place), ARGV[at + 2])
    else
      failed = true
    end
  end
end
if redis.call('HLEN', KEYS[1]) >= total + 3 then
  local reply, whole = {1, head[2], head[3]}, true
  for first = 0, total - 1, 1000 do
    local places = {}
    for place = first, math.min(first + 999, total - 1) do
      places[#places + 1] = string.format('%d', place)
    end
    for _, value in ipairs(redis.call('HMGET', KEYS[1], unpack(places))) do
      reply[#reply + 1] = value
      -- Of a field that is no member's not all are there yet, however many there are.
      whole = whole and value
    end
  end
  if whole then
    return reply
  end
end
if failed and redis.call('EXISTS', KEYS[2]) == 0 then
  return {2, head[2], head[3]}
end
return {0}
