-- publish: put messages on one stream in order, each at most once under its sender's keys, as many as there is room for.
-- Moves: nowhere -> waiting, in the stream or by its priority; with a time to come nowhere -> delayed; behind one of its ordering key that is not done
-- nowhere -> waiting for its turn.
-- KEYS  1 stream  then of each message in turn its published keys, then the keys of what else is said of it
-- ARGV  1 most entries the stream may have (0: any number)  2 how long keys are remembered (s)
--       3 '1' from a worker that finishes what is there: also on a server that is out of memory
--       then per message: number of its keys, message id, number of what else is said, that as pairs, number of fields,
--       fields. The pairs, and the keys of each:
--         'in' ms from now, 'at' ms since the epoch: not before that    delayed
--         'soon' a channel and what to say there if that is sooner than
--         anything that was there before, and than workers look again
--         'order' (unused): one after the other                        order, ordered
--         'unique' (unused): not while such a call waits or runs       published
--         'rank' a channel and what to say there if nothing was there
--         before: another priority than 5                              ranked
-- Returns {-1, ids}, or {entries there are, ids} if it is full: then the messages beyond ids were not sent. An id is
-- the one that was published under a key of the message, now or before.
-- What is delayed, or waits for its turn or by its priority, counts against the limit for messages that would be the same.
-- include: ranking
-- include: ordered
local LOOK_MS = 1000 -- how often workers look for what is due, whatever they are told
local most, remember = tonumber(ARGV[1]), tonumber(ARGV[2])
local length = most > 0 and redis.call('XLEN', KEYS[1]) or 0
local ids, key, at = {}, 2, 4
if ARGV[3] == '1' then
  -- Such a server takes writes that need more only after another write of the same script.
  redis.call('PERSIST', KEYS[1])
end
local clock, known_to_wait
local function now_ms()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end
-- A message that does not go into the stream now, as its fields in JSON. When it gets there, its entry's id is late.
local function resting(first, last, now)
  local fields = {unpack(ARGV, first, last)}
  for i = 1, #fields, 2 do
    if fields[i] == 'sent' then
      return cjson.encode(fields)
    end
  end
  fields[#fields + 1] = 'sent'
  fields[#fields + 1] = string.format('%d', now)
  return cjson.encode(fields)
end

while at <= #ARGV do
  local own, id, said = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 2])
  local known, missing = false, {}
  for index = key, key + own - 1 do
    local found = redis.call('GET', KEYS[index])
    known = known or found
    if not found then
      missing[#missing + 1] = KEYS[index]
    end
  end
  key, at = key + own, at + 3
  local now = said > 0 and now_ms()
  local due, delayed, soon, order, ordered, unique, ranked, wake = 0, nil, nil, nil, nil, nil, nil, nil
  for _ = 1, said do
    local what, argument = ARGV[at], ARGV[at + 1]
    if what == 'order' then
      order, ordered = KEYS[key], KEYS[key + 1]
      key = key + 2
    elseif what == 'unique' then
      unique = KEYS[key]
      known = known or redis.call('GET', unique)
      key = key + 1
    elseif what == 'soon' then
      soon = argument
    elseif what == 'rank' then
      ranked, wake = KEYS[key], argument
      key = key + 1
    else
      due, delayed = (what == 'in' and now or 0) + argument, KEYS[key]
      key = key + 1
    end
    at = at + 2
  end
  local first, last = at + 1, at + tonumber(ARGV[at])
  at = last + 1
  local waits = order and redis.call('LLEN', order) > 0
  local comes = delayed and due > now
  if not known then
    local there = length
    if most > 0 and waits then
      there = there + (tonumber(redis.call('HGET', ordered, '') or 0) or 0)
    elseif most > 0 and comes then
      there = there + redis.call('ZCARD', delayed)
    elseif most > 0 and ranked then
      there = there + redis.call('ZCARD', ranked)
    end
    if most > 0 and there >= most then
      return {there, ids}
    end
    if comes then
      if due - now <= LOOK_MS and redis.call('ZCOUNT', delayed, '-inf', due) == 0 then
        ring(soon)
      end
      redis.call('ZADD', delayed, due, resting(first, last, now))
    elseif waits then
      -- Counted first: a count of a wrong type has to show while nothing is done.
      count_waiting(ordered, order, 1)
      redis.call('RPUSH', order, resting(first, last, now))
    else
      if ranked then
        if not known_to_wait and redis.call('ZCARD', ranked) == 0 then
          ring(wake)
        end
        known_to_wait = true
        rank(ranked, {unpack(ARGV, first, last)}, now, now)
      else
        redis.call('XADD', KEYS[1], '*', unpack(ARGV, first, last))
        length = length + 1
      end
      if order then
        redis.call('RPUSH', order, id)
      end
    end
  end
  if unique and not known then
    missing[#missing + 1] = unique
  end
  for _, name in ipairs(missing) do
    redis.call('SET', name, known or id, 'EX', remember + (comes and math.ceil((due - now) / 1000) or 0))
  end
  ids[#ids + 1] = known or id
end
return {-1, ids}
