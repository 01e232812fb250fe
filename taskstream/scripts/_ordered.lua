-- ordered, a part of other scripts: how many messages wait for their turn, by the list they wait in; all under ''.
local function count_waiting(ordered, order, by)
  for _, field in ipairs({'', order}) do
    if redis.call('HINCRBY', ordered, field, by) <= 0 then
      redis.call('HDEL', ordered, field)
    end
  end
end
