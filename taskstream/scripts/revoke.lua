-- revoke: messages of one group are not to run any more, wherever they are.
-- Moves: none; a worker ends such a message when its turn comes.
-- KEYS  1 revoked  2 control
-- ARGV  1 '1': nor to go on running  then per message: how long it is remembered (ms), message id
-- Returns how often anything was revoked in this group.
-- Renewals bring the new version to workers that did not hear of it otherwise.
-- include: counts
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 2, #ARGV, 2 do
  local until_ms, id = now + ARGV[at], ARGV[at + 1]
  local known = tonumber(redis.call('ZSCORE', KEYS[1], id) or 0)
  local ends = ARGV[1] == '1' or known % 1 ~= 0
  until_ms = math.max(until_ms, math.floor(known))
  redis.call('ZADD', KEYS[1], ends and until_ms + 0.5 or until_ms, id)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')
if last[2] then
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.ceil(tonumber(last[2]))))
end
count_up(KEYS[2], 'version')
return count_up(KEYS[2], 'revokes')
