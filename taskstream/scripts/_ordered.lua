-- ordered, a part of other scripts: how many messages wait for their turn, by the list they wait in; all under ''.
local function count_waiting(ordered, order, by)
  for _, field in ipairs({'', order}) do
    local found = redis.call('HGET', ordered, field)
    if found and not (#found < 16 and string.match(found, '^%d+$')) then
      -- Not written by us, and must not end a script that has moved something already.
      redis.call('HDEL', ordered, field)
    end
    if redis.call('HINCRBY', ordered, field, by) <= 0 then
      redis.call('HDEL', ordered, field)
    end
  end
end
