-- publish: put messages on one stream in order, each at most once under its sender's keys, as many as there is room for.
-- Moves: nowhere -> waiting.
-- KEYS  1 stream  then the published keys of each message in turn
-- ARGV  1 most entries the stream may have (0: any number)  2 how long keys are remembered (s)
--       3 '1' from a worker that finishes what is there: also on a server that is out of memory
--       then per message: number of its keys, message id, number of fields, fields
-- Returns {-1, ids}, or {entries in the stream, ids} if it is full: then the messages beyond ids were not sent. An id is
-- the one that was published under a key of the message, now or before.
local most, remember = tonumber(ARGV[1]), ARGV[2]
local length = most > 0 and redis.call('XLEN', KEYS[1]) or 0
local ids, key, at = {}, 2, 4
if ARGV[3] == '1' then
  -- Such a server takes writes that need more only after another write of the same script.
  redis.call('PERSIST', KEYS[1])
end
while at <= #ARGV do
  local own, id, count = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 2])
  local known, missing = false, {}
  for index = key, key + own - 1 do
    local found = redis.call('GET', KEYS[index])
    known = known or found
    if not found then
      missing[#missing + 1] = KEYS[index]
    end
  end
  if not known then
    if most > 0 and length >= most then
      return {length, ids}
    end
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 3, at + 2 + count))
    length = length + 1
  end
  for _, name in ipairs(missing) do
    redis.call('SET', name, known or id, 'EX', remember)
  end
  ids[#ids + 1] = known or id
  key, at = key + own, at + 3 + count
end
return {-1, ids}
