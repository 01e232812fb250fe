-- ranking, a part of other scripts: the sorted set of messages that wait by their priority.
-- The score is the priority, then when the message was sent (ms since the epoch), a level apart. Messages that are new
-- in one millisecond stand 1/32 ms apart, in order: a score has room for more.
local LEVEL = 1e13

-- Flat fields from JSON, or nil where they are no message's: too many for one command, or not text.
local function decoded(member)
  local ok, fields = pcall(cjson.decode, member)
  ok = ok and type(fields) == 'table' and #fields >= 2 and #fields % 2 == 0 and #fields <= 1000
  for i = 1, ok and #fields or 0 do
    ok = ok and type(fields[i]) == 'string'
  end
  return ok and fields or nil
end

-- The priority that fields say, 5 where they say none.
local function priority_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'priority' then
      return tonumber(string.match(fields[i + 1], '^%d$') or 5)
    end
  end
  return 5
end

-- Lets a message wait in ranked, where it stands by when it was sent: by its fields, else since. A new one comes behind
-- all of its priority.
local function rank(ranked, fields, now, since)
  local level, at, sent = priority_of(fields), #fields + 2, since
  for i = 1, #fields, 2 do
    if fields[i] == 'sent' then
      at, sent = i + 1, math.min(now, tonumber(string.match(fields[i + 1], '^%d+$') or since))
    end
  end
  fields[at - 1], fields[at] = 'sent', string.format('%d', sent)
  local score = level * LEVEL + sent
  if sent == now then
    local last = redis.call('ZREVRANGEBYSCORE', ranked, string.format('(%d', (level + 1) * LEVEL), score,
      'WITHSCORES', 'LIMIT', 0, 1)
    score = last[2] and last[2] + 1 / 32 or score
  end
  while redis.call('ZADD', ranked, 'NX', score, cjson.encode(fields)) == 0 do
    -- Another message that says the very same.
    sent = sent - 1
    fields[at] = string.format('%d', sent)
  end
end

-- Tells the readers, where they may be waiting for what is in the streams: ``wake`` is a channel and what to say there.
local function ring(wake)
  local channel, text = string.match(wake, '^(%S+) (.*)$')
  redis.call('PUBLISH', channel, text)
end
