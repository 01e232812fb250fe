-- claim: take over what a dead consumer held, a bounded piece at a time.
-- Moves: held by the dead -> held by me. Marks the lease as taken with the first piece, so that the one it
-- belonged to can commit nothing from then on; removes lease and consumer with the last.
-- KEYS  1 stream  2 again  3 leases  4 deaths
-- ARGV  1 group  2 me  3 at most n entries  4 victim  5 the expired score that I myself observed for a full lease
--       6 how long a death is remembered (s)
-- Lease scores: >= 2 expiry (ms) · 1 given up (its supervisor counted deaths) · 0 taken, every held message
-- counts as one that died with it · -1 taken from a given-up one.
-- Returns {-1} my own lease does not hold · {0} nothing to take (renewed, or gone) · {1, n, ...} taken, all of
-- it · {2, n, ...} taken, more is left; n entries seen, then flat 1|2 source, entry id, times delivered, deaths,
-- fields.
local group, me, room, victim = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own = redis.call('ZSCORE', KEYS[3], me)
if not own or tonumber(own) <= now then
  return {-1}
end
local score = tonumber(redis.call('ZSCORE', KEYS[3], victim) or 'nan')
if score ~= score or (score >= 2 and (score > now or score ~= tonumber(ARGV[5]))) then
  return {0}
end
-- A server that is out of memory takes writes that need more only after another write of the same script.
redis.call('PERSIST', KEYS[3])
if score >= 1 then
  score = score == 1 and -1 or 0
  redis.call('ZADD', KEYS[3], 'XX', score, victim)
end

local reply, seen = {0, 0}, 0
for source = 1, 2 do
  if room > 0 then
    local pending = redis.pcall('XPENDING', KEYS[source], group, '-', '+', room, victim)
    if not pending.err and #pending > 0 then
      local ids, times = {}, {}
      for i, entry in ipairs(pending) do
        ids[i] = entry[1]
        times[entry[1]] = entry[4]
      end
      room = room - #ids
      seen = seen + #ids
      -- Entries deleted from the stream meanwhile are not returned and leave the pending list.
      for _, entry in ipairs(redis.call('XCLAIM', KEYS[source], group, me, 0, unpack(ids))) do
        if entry then
          local deaths = 0
          for i = 1, #entry[2], 2 do
            if entry[2][i] == 'id' then
              if score == 0 then
                deaths = redis.call('HINCRBY', KEYS[4], entry[2][i + 1], 1)
                redis.call('EXPIRE', KEYS[4], ARGV[6])
              else
                deaths = tonumber(redis.call('HGET', KEYS[4], entry[2][i + 1]) or 0)
              end
            end
          end
          reply[#reply + 1] = source
          reply[#reply + 1] = entry[1]
          reply[#reply + 1] = times[entry[1]] + 1
          reply[#reply + 1] = deaths
          reply[#reply + 1] = entry[2]
        end
      end
    end
  end
end
reply[2] = seen
if room == 0 then
  reply[1] = 2
  return reply
end
-- Fewer came back than asked for: nothing is pending any more, so nothing is lost with the consumer.
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], group, victim)
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], group, victim)
redis.call('ZREM', KEYS[3], victim)
reply[1] = 1
return reply
