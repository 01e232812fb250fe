-- turns, a part of other scripts after ranking and ordered: what rests comes into the group's own stream, KEYS[2] of all.

-- Makes a message readable that rests as its fields in JSON; returns its id and its entry's.
local function put_again(member)
  -- Nothing of ours: let it become a dead letter like any other unreadable entry.
  local fields = decoded(member) or {'unreadable', member}
  local entry = redis.call('XADD', KEYS[2], '*', unpack(fields))
  for i = 1, #fields, 2 do
    if fields[i] == 'id' then
      return fields[i + 1], entry
    end
  end
end

-- Takes the first of an order out of it, which has ended; then it is the next one's turn.
local function next_turn(order, ordered)
  redis.call('LPOP', order)
  local member = redis.call('LINDEX', order, 0)
  while member do
    count_waiting(ordered, order, -1)
    local id = put_again(member)
    if id then
      redis.call('LSET', order, 0, id)
      return
    end
    redis.call('LPOP', order)
    member = redis.call('LINDEX', order, 0)
  end
end
