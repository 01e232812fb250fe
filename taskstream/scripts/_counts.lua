-- counts, a part of other scripts: counts up in a hash and returns the number. What is no number was not written by us,
-- and gives way to one that is larger than all counted before, so that whoever remembers such a one hears of the next.
local function count_up(key, field)
  local found = redis.call('HGET', key, field)
  if found and not (#found < 16 and string.match(found, '^%d+$')) then
    redis.call('HSET', key, field, redis.call('TIME')[1])
  end
  return redis.call('HINCRBY', key, field, 1)
end
