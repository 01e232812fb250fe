-- choose: keep an operator's choice for a group. Choosing the same again changes nothing.
-- KEYS  1 control
-- ARGV  1 started|stopped
-- Returns the version of the choice.
local choice = redis.call('HMGET', KEYS[1], 'state', 'version')
if choice[1] == ARGV[1] then
  return tonumber(choice[2])
end
redis.call('HSET', KEYS[1], 'state', ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'version', 1)
