-- Writes what was decided about ids. The records of one shard: a hash of texts by id, the ids in the order in which they go, and how many
-- decisions they have together.
-- KEYS: texts, order, count. ARGV: life in milliseconds, decisions kept, decisions kept of each id, then id, line for each decision.

local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local texts, order, count, life, most, each = KEYS[1], KEYS[2], KEYS[3], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- So many ids go in one call, which bounds its time.
local AT_ONCE = 1000
local held = tonumber(call('GET', count) or 0)

local function int(number)
  return string.format('%.0f', number)
end

local function lines_in(text)
  local _, lines = string.gsub(text or '', '\n', '')
  return lines
end

local function forget(ids)
  if #ids == 0 then return end
  for _, text in ipairs(call('HMGET', texts, unpack(ids))) do
    held = held - lines_in(text)
  end
  call('HDEL', texts, unpack(ids))
  call('ZREM', order, unpack(ids))
end

forget(call('ZRANGEBYSCORE', order, '-inf', int(now), 'LIMIT', 0, AT_ONCE))

for at = 4, #ARGV, 2 do
  local id, text = ARGV[at], call('HGET', texts, ARGV[at]) or ''
  for _ = each, lines_in(text) do
    text = string.gsub(text, '^[^\n]*\n', '', 1)
    held = held - 1
  end
  call('HSET', texts, id, text .. ARGV[at + 1] .. '\n')
  call('ZADD', order, int(now + life), id)
  held = held + 1
end

local left = AT_ONCE
while left > 0 do
  local ids = call('ZCARD', order)
  local over = math.min(math.max(ids - most, math.ceil((held - most) / each)), ids, left)
  if over <= 0 then break end
  forget(call('ZRANGE', order, 0, over - 1))
  left = left - over
end

call('PEXPIRE', texts, int(life))
call('PEXPIRE', order, int(life))
call('SET', count, int(math.max(0, held)), 'PX', int(life))
return 0
