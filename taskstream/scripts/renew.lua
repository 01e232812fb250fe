-- renew: a consumer proves it is alive. An expired lease nobody has taken is extended, a taken one never, nor one
-- that sweep gave to a consumer without any.
-- Moves: none.
-- KEYS  1 leases  2 control  3 ranked
-- ARGV  1 consumer  2 lease (ms)
-- Returns {1 renewed | 0 lost, version of the operator's choice, choice or '', 1 if something waits in ranked,
-- now (ms since the epoch)}.
local choice = redis.call('HMGET', KEYS[2], 'version', 'state')
-- What is no number was not written by us, and must not cost anybody a lease.
local version, state = tonumber(choice[1] or 0) or 0, choice[2] or ''
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) < 2 or tonumber(score) % 1 ~= 0 then
  return {0, version, state, 0, now}
end
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[1], 'XX', now + ARGV[2], ARGV[1])
return {1, version, state, redis.call('EXISTS', KEYS[3]), now}
