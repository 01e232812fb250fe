-- choose: keep an operator's choice for a group. Choosing the same again changes nothing.
-- KEYS  1 control
-- ARGV  1 started|stopped
-- Returns the version of the choice.
-- include: counts
local choice = redis.call('HMGET', KEYS[1], 'state', 'version')
local version = tonumber(choice[2] or 'x')
if choice[1] == ARGV[1] and version then
  return version
end
redis.call('HSET', KEYS[1], 'state', ARGV[1])
return count_up(KEYS[1], 'version')
