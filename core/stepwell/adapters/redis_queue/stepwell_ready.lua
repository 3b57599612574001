#!lua name=stepwell_ready_v1

-- The ready queue. Another behaviour is another version: change the number here and in queue.py together, because a
-- server keeps the functions that it once loaded, and an older Stepwell may still call them.
--
-- Every function has one key, the base B; all others share its hash tag:
--   B:ready:<namespace>  sorted set: run id -> creation time in ms, moved by priority
--   B:ring               sorted set: namespace with work -> turn; the smallest turn is served next
--   B:wake               list of at most one token: "there is work that nobody was sent for"
--
-- No wake-up is lost: whenever the ring is not empty, there is a token, or whoever popped it has yet to call `take`.

local function ready_key(base, namespace)
  return base .. ':ready:' .. namespace
end

local function next_turn(ring)
  local last = redis.call('ZRANGE', ring, -1, -1, 'WITHSCORES')
  return tonumber(last[2] or 0) + 1
end

local function leave_token(base)
  local token = base .. ':wake'
  if redis.call('EXISTS', base .. ':ring') == 0 then
    redis.call('DEL', token)
  elseif redis.call('EXISTS', token) == 0 then
    redis.call('RPUSH', token, '1')
  end
end

-- ARGV[1]: JSON {namespace: [score, id, score, id, ...]}; answers how many were new
local function add(keys, args)
  local base, added = keys[1], 0
  local ring = base .. ':ring'
  for namespace, members in pairs(cjson.decode(args[1])) do
    added = added + redis.call('ZADD', ready_key(base, namespace), unpack(members))
    redis.call('ZADD', ring, 'NX', next_turn(ring), namespace)
  end
  leave_token(base)
  return added
end

-- ARGV[1]: how many at most; answers a JSON list of ids (redis-py takes 4 us for each element of an array). Each namespace of the ring gives its share and goes to the ring's end; what
-- the poor ones leave is shared again.
local function take(keys, args)
  local base, wanted, ids = keys[1], tonumber(args[1]), {}
  local ring = base .. ':ring'
  local turn = next_turn(ring)
  while wanted > 0 do
    local waiting = redis.call('ZCARD', ring)
    if waiting == 0 then
      break
    end
    local share = math.max(1, math.floor(wanted / waiting))
    for _, namespace in ipairs(redis.call('ZRANGE', ring, 0, math.min(waiting, wanted) - 1)) do
      local ready = ready_key(base, namespace)
      local popped = redis.call('ZPOPMIN', ready, math.min(share, wanted))
      for i = 1, #popped, 2 do
        ids[#ids + 1] = popped[i]
      end
      wanted = wanted - #popped / 2
      if redis.call('EXISTS', ready) == 0 then
        redis.call('ZREM', ring, namespace)
      else
        redis.call('ZADD', ring, turn, namespace)
        turn = turn + 1
      end
    end
  end
  leave_token(base)
  return cjson.encode(ids)
end

-- ARGV[1]: JSON {namespace: [id, ...]}; answers how many were there
local function remove(keys, args)
  local base, removed = keys[1], 0
  for namespace, ids in pairs(cjson.decode(args[1])) do
    local ready = ready_key(base, namespace)
    removed = removed + redis.call('ZREM', ready, unpack(ids))
    if redis.call('EXISTS', ready) == 0 then
      redis.call('ZREM', base .. ':ring', namespace)
    end
  end
  leave_token(base)
  return removed
end

-- answers namespace, count, namespace, count, ...
local function depth(keys)
  local found = {}
  for _, namespace in ipairs(redis.call('ZRANGE', keys[1] .. ':ring', 0, -1)) do
    found[#found + 1] = namespace
    found[#found + 1] = redis.call('ZCARD', ready_key(keys[1], namespace))
  end
  return found
end

-- A server that is full must still let work be taken out.
redis.register_function('stepwell_ready_v1_add', add)
redis.register_function{function_name = 'stepwell_ready_v1_take', callback = take, flags = {'allow-oom'}}
redis.register_function{function_name = 'stepwell_ready_v1_remove', callback = remove, flags = {'allow-oom'}}
redis.register_function{function_name = 'stepwell_ready_v1_depth', callback = depth, flags = {'no-writes'}}
