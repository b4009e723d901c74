-- What operators set of limits, for Redis; the same rules as in `memory/limit/control.rs`. One question in one call.
--
-- `PREFIX:set:{RULE}` is a hash. Its fields are `p:LIMIT` for a pause and `r:LIMIT` for a rate, and with `:KEY` behind them the same for one
-- value of the limit's key, by its digest. The values begin with numbers: until when, or 0 if without an end; since when; then 1 or 0 for a
-- pause, or how often and in how many milliseconds for a rate. On the lines behind them are who has set it, and the key as it was written.
--
-- ARGV: the prefix of all keys, the rule, the question, its arguments.

local ARGV, call = ARGV, redis.call
local prefix, tag = ARGV[1], '{' .. ARGV[2] .. '}'
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local key = prefix .. ':set:' .. tag
-- What has no end goes if nobody looks at it for 400 days.
local KEPT, SET_MAX = 34560000000, 2000

local function int(number) return string.format('%d', number) end

-- All that holds; what is over goes.
local function read()
  local set, count, flat = {}, 0, call('HGETALL', key)
  for at = 1, #flat, 2 do
    local ends = tonumber(string.match(flat[at + 1], '^%d+'))
    if ends ~= 0 and ends <= now then
      call('HDEL', key, flat[at])
    else
      set[flat[at]] = flat[at + 1]
      count = count + 1
    end
  end
  if count > 0 and call('PTTL', key) < KEPT - 3600000 then call('PEXPIRE', key, KEPT) end
  return set, count
end

local function starts(text, with) return string.sub(text, 1, #with) == with end

-- Of each: the field's kind, the limit, the key or nothing, how long, the numbers, who, the key as it was written.
local function put(set, kind, limit, digest, life, numbers, by, shown)
  local whole = kind .. ':' .. limit
  local field = digest == '' and whole or whole .. ':' .. digest
  local ends = life == '' and 0 or now + tonumber(life)
  call('HDEL', key, field)
  set[field] = nil
  if kind == 'p' and digest == '' then
    for other, value in pairs(set) do
      if starts(other, whole .. ':') and string.find(value, '^%d+ %d+ 0\n') then
        call('HDEL', key, other)
        set[other] = nil
      end
    end
  end
  if kind == 'p' and numbers == '0' then
    -- Only what a limit that is paused does not let go needs to be let go apart.
    local paused = digest ~= '' and set[whole]
    if not paused then return end
    local until_ms = tonumber(string.match(paused, '^%d+'))
    if until_ms ~= 0 and (ends == 0 or until_ms < ends) then ends = until_ms end
  end
  set[field] = int(ends) .. ' ' .. int(now) .. ' ' .. numbers .. '\n' .. by .. '\n' .. shown
  call('HSET', key, field, set[field])
  call('PEXPIRE', key, KEPT)
end

-- Set: see `put`, again and again. 1: done, 0: there is too much.
if ARGV[3] == 'set' then
  local set, count = read()
  if count + (#ARGV - 3) / 7 > SET_MAX then return 0 end
  for a = 4, #ARGV, 7 do put(set, ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5], ARGV[a + 6]) end
  return 1
end

-- Reset: limit, key or nothing. How much that was.
if ARGV[3] == 'reset' then
  local limit, digest, gone = ARGV[4], ARGV[5], 0
  local behind = digest == '' and limit or limit .. ':' .. digest
  for field, value in pairs((read())) do
    local excepted = digest == '' and starts(field, 'p:' .. limit .. ':') and string.find(value, '^%d+ %d+ 0\n')
    if field == 'p:' .. behind or field == 'r:' .. behind or excepted then gone = gone + call('HDEL', key, field) end
  end
  return gone
end

-- How many of a bucket have gone since a time.
local function given(list, since)
  local low, high = 0, call('LLEN', list)
  local length = high
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(call('LINDEX', list, int(middle))) < since then low = middle + 1 else high = middle end
  end
  return length - low
end

-- Known: of each bucket its name and the length of its window. What time it is, how many wait, of each bucket how many wait and how many
-- have gone in its window, and what is set, each a field and a value.
local out, set = { int(now), call('ZCARD', prefix .. ':due:' .. tag) }, read()
local buckets = {}
for a = 4, #ARGV, 2 do
  buckets[#buckets + 1] = call('ZCARD', prefix .. ':queue:' .. tag .. ':' .. ARGV[a])
  local per = tonumber(ARGV[a + 1])
  buckets[#buckets + 1] = per and given(prefix .. ':times:' .. tag .. ':' .. ARGV[a], now - per) or 0
end
local flat = {}
for field, value in pairs(set) do
  flat[#flat + 1] = field
  flat[#flat + 1] = value
end
out[3], out[4] = buckets, flat
return out
