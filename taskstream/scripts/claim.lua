-- claim: take over what a dead consumer held, a bounded piece at a time.
-- Moves: held by the dead -> held by me. Marks the lease as taken with the first piece, so that the one it
-- belonged to can commit nothing from then on; removes lease and consumer with the last.
-- KEYS  1 stream  2 again  3 leases  4 deaths
-- ARGV  1 group  2 me  3 at most n entries  4 victim  5 the expired score that I myself observed for a full lease
--       6 how long a death is remembered (s)  7 a message with so many deaths is the last of its piece: it will run
--       alone, and what nobody holds meanwhile cannot be blamed again
-- Lease scores: >= 2 expiry (ms; in .5 one of grace, see sweep) · 1 given up (its supervisor counted deaths) · 0 taken, every held message
-- counts as one that died with it · -1 taken, none does:
-- it was given up, or its owner came back (see absolve).
-- Returns {-1} my own lease does not hold · {0} nothing to take (renewed, or gone) · {1, n, ...} taken, all of
-- it · {2, n, ...} taken, more may be left; n entries seen, then flat 1|2 source, entry id, times delivered, deaths,
-- why its last run was ended on purpose or '', fields. Such a run is no death, whatever became of who held it since.
local group, me, room, victim = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own = redis.call('ZSCORE', KEYS[3], me)
if not own or tonumber(own) <= now or tonumber(own) % 1 ~= 0 then
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

local reply, seen, suspect = {0, 0}, 0, false
for source = 1, 2 do
  if room > 0 and not suspect then
    local pending = redis.pcall('XPENDING', KEYS[source], group, '-', '+', room, victim)
    for _, held in ipairs(pending.err and {} or pending) do
      room = room - 1
      seen = seen + 1
      -- An entry deleted from the stream meanwhile is not returned and leaves the pending list.
      local entry = redis.call('XCLAIM', KEYS[source], group, me, 0, held[1])[1]
      if entry then
        local deaths, why = 0, ''
        for i = 1, #entry[2], 2 do
          if entry[2][i] == 'id' then
            local id = entry[2][i + 1]
            local known = redis.call('HMGET', KEYS[4], id, id .. ' why')
            -- What is no number was not written by us, and must not end a script that has claimed already.
            deaths, why = tonumber(known[1] or 0) or 0, known[2] or ''
            if score == 0 and why == '' then
              deaths = deaths + 1
              redis.call('HSET', KEYS[4], id, deaths)
              redis.call('EXPIRE', KEYS[4], ARGV[6])
            end
          end
        end
        reply[#reply + 1] = source
        reply[#reply + 1] = entry[1]
        reply[#reply + 1] = held[4] + 1
        reply[#reply + 1] = deaths
        reply[#reply + 1] = why
        reply[#reply + 1] = entry[2]
        suspect = why == '' and deaths >= tonumber(ARGV[7])
      end
      if suspect then
        break
      end
    end
  end
end
reply[2] = seen
if room == 0 or suspect then
  reply[1] = 2
  return reply
end
-- Fewer came back than asked for: nothing is pending any more, so nothing is lost with the consumer.
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], group, victim)
redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], group, victim)
redis.call('ZREM', KEYS[3], victim)
reply[1] = 1
return reply
