#!lua name=stepwell_rates_v1

-- Rates that all gateways share. Another behaviour is another version: change the number here and in rates.py together.
--
-- A limit is counted in windows of its own length: B:rate:<name>:<window's number>. What counts is the present window and
-- the share of the last one that still lies within the length of time that ends now. engine/rates.py holds the same rule
-- for the time when Redis is away; a test compares them.

local function counts(base, name, window)
  local key = base .. ':rate:' .. name .. ':'
  local found = redis.call('MGET', key .. string.format('%d', window), key .. string.format('%d', window - 1))
  return tonumber(found[1] or 0), tonumber(found[2] or 0)
end

local function wait(present, last, elapsed, limit, per)
  if last * (per - elapsed) / per + present + 1 <= limit then
    return 0
  end
  if present + 1 <= limit then
    return math.ceil(per - (limit - present - 1) * per / last - elapsed)
  end
  return math.ceil(per - elapsed + per - (limit - 1) * per / present)
end

-- ARGV[1]: JSON, a list of requests, each a list of {name, limit, per in ms}. A request is counted where all its limits
-- allow it. Answers JSON: for each request 0, or {which of its limits refuses it, ms to wait}.
local function take(keys, args)
  local base, answers = keys[1], {}
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for number, limits in ipairs(cjson.decode(args[1])) do
    local answer = 0
    for which, limit in ipairs(limits) do
      local window = math.floor(now / limit[3])
      local present, last = counts(base, limit[1], window)
      local ms = wait(present, last, now - window * limit[3], limit[2], limit[3])
      if ms > 0 then
        answer = { which - 1, ms }
        break
      end
    end
    if answer == 0 then
      for _, limit in ipairs(limits) do
        local key = base .. ':rate:' .. limit[1] .. ':' .. string.format('%d', math.floor(now / limit[3]))
        redis.call('INCR', key)
        redis.call('PEXPIRE', key, 2 * limit[3])
      end
    end
    answers[number] = answer
  end
  return cjson.encode(answers)
end

redis.register_function('stepwell_rates_v1_take', take)
