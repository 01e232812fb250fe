-- absolve: a process comes back, finds that its lease was lost, and says that it has not died.
-- Moves: none. Takes back the deaths that claims counted for what it held, and marks the lease so that none is
-- counted for what they have left.
-- KEYS  1 stream  2 again  3 leases  4 deaths
-- ARGV  1 group  2 consumer  3 1 for the first piece of what it held, 0 for another
--       then triples: 1|2 stream or again, entry id, message id
-- Returns {0} nothing was counted under this name: it was given up, absolved before, or its lease is its own still ·
-- {1, ...} done; for the first piece also flat 1|2 source, entry id of all that is pending under this name. For that
-- no death was counted, nor will one be, so other pieces are to leave it out.
-- Not to be repeated: with the lease gone, nothing tells that it was done.
local group, consumer = ARGV[1], ARGV[2]
local reply, pending = {1}, {}
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[3])
-- What a script did before one of its commands fails stays done, so a key of a wrong type has to show first.
redis.call('HLEN', KEYS[4])
if ARGV[3] == '1' then
  local score = tonumber(redis.call('ZSCORE', KEYS[3], consumer) or 'nan')
  if score == 1 or score == -1 or (score >= 2 and score % 1 == 0) then
    return {0}
  end
  for source = 1, 2 do
    local found = redis.pcall('XPENDING', KEYS[source], group, '-', '+', 1000000, consumer)
    for _, held in ipairs(found.err and {} or found) do
      pending[source .. ' ' .. held[1]] = true
      reply[#reply + 1] = source
      reply[#reply + 1] = held[1]
    end
  end
  -- Also where the lease itself was lost: one of grace (see sweep) would run out and count.
  if score == score or #reply > 1 then
    redis.call('ZADD', KEYS[3], -1, consumer)
  end
end
for at = 4, #ARGV, 3 do
  local id = ARGV[at + 2]
  if not pending[ARGV[at] .. ' ' .. ARGV[at + 1]] then
    -- What is no number was not written by us; what is not there was forgotten by who ended the message.
    local deaths = tonumber(redis.call('HGET', KEYS[4], id) or 0) or 0
    if deaths > 1 then
      redis.call('HSET', KEYS[4], id, deaths - 1)
    elseif deaths == 1 then
      redis.call('HDEL', KEYS[4], id)
    end
  end
end
return reply
