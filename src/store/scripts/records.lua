-- Writes what was decided about ids. The records of one shard: a hash of texts by id, and the ids in the order in which they go.
-- KEYS: texts, order. ARGV: life in milliseconds, ids kept, decisions kept of each id, then id, line for each decision.

local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local texts, order, life, most, each = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- So many ids go in one call, which bounds its time.
local AT_ONCE = 1000

local function int(number)
  return string.format('%.0f', number)
end

local lapsed = call('ZRANGEBYSCORE', order, '-inf', int(now), 'LIMIT', 0, AT_ONCE)
if #lapsed > 0 then
  call('HDEL', texts, unpack(lapsed))
  call('ZREM', order, unpack(lapsed))
end

for at = 4, #ARGV, 2 do
  local id, text = ARGV[at], call('HGET', texts, ARGV[at]) or ''
  local _, lines = string.gsub(text, '\n', '')
  for _ = each, lines do
    text = string.gsub(text, '^[^\n]*\n', '', 1)
  end
  call('HSET', texts, id, text .. ARGV[at + 1] .. '\n')
  call('ZADD', order, int(now + life), id)
end

local over = math.min(call('ZCARD', order) - most, AT_ONCE)
if over > 0 then
  local popped, gone = call('ZPOPMIN', order, over), {}
  for at = 1, #popped, 2 do
    gone[#gone + 1] = popped[at]
  end
  call('HDEL', texts, unpack(gone))
end

call('PEXPIRE', texts, int(life))
call('PEXPIRE', order, int(life))
return 0
