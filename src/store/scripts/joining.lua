-- The work for ids that wait for the result of a holder (see `join.lua`), for Redis: one question in one call.
--
-- ARGV: the prefix of all keys, the question, its arguments.

local ARGV, call = ARGV, redis.call
local prefix = ARGV[1]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local JOINS_KEPT, AT_ONCE, LOOKED_AT, WORKED_ON, PER_GROUP, OWED_MAX = 86400000, 500, 500, 5000, 4, 100000
local joining = prefix .. ':joining'
-- The last two are of what is owed at once, under a digest of no lock.
local names = { ['='] = ':join:{', ['+'] = ':more:{', ['!'] = ':success:{', ['~'] = ':overdue:{' }

local function int(number) return string.format('%d', number) end
local function key_of(kind, digest, holder) return prefix .. names[kind] .. digest .. '}:' .. holder end

-- How far the holder is: h its lock is held, x its lock is held whatever becomes of it, s it may have begun, e it has ended.
local function stage(digest, holder, terms)
  local scope, until_ms = string.match(terms or '', '^(%S+) (%d+)$')
  local key = scope == 'while_running' and ':run:{' or ':lock:{'
  local l = call('HMGET', prefix .. key .. digest .. '}', 'holder', 'state', 'aside')
  if l[1] == holder and l[2] ~= 'cooldown' then return scope == 'until_expired' and 'x' or 'h' end
  -- A newer one has it for a lease, see `replace.lua`.
  if l[3] == holder and call('EXISTS', prefix .. ':aside:{' .. digest .. '}') == 1 then return 'h' end
  -- It waits for the end of another, see `last.lua`.
  for _, name in ipairs({ ':last:{', ':former:{' }) do
    if call('HGET', prefix .. name .. digest .. '}', 'holder') == holder then return 'h' end
  end
  if scope ~= 'until_started' or l[1] == holder or now >= tonumber(until_ms) then return 'e' end
  if string.find(call('GET', prefix .. ':ended:' .. holder) or '', ' r', 1, true) then return 'e' end
  return 's'
end

-- Due: those that are to be looked at now, which nobody else looks at for a while. Of each: its kind, digest, holder, how far the holder is,
-- for how long it is known to have ended, and whether a result is kept that its worker has published.
if ARGV[2] == 'due' then
  local out = {}
  local again = math.max(LOOKED_AT, math.floor(call('ZCARD', joining) / PER_GROUP))
  for _, member in ipairs(call('ZRANGEBYSCORE', joining, '-inf', int(now), 'LIMIT', 0, AT_ONCE)) do
    local kind, digest, holder = string.match(member, '^([=+!~])(%x+) (.*)$')
    local key = kind and key_of(kind, digest, holder)
    if not key or call('EXISTS', key) == 0 then
      call('ZREM', joining, member)
    else
      call('ZADD', joining, int(now + again), member)
      local terms = call('HMGET', key, '', '\n')
      local far, ended = stage(digest, holder, terms[1]), nil
      if far == 'e' then
        ended = tonumber(terms[2])
        if not ended then
          ended = now
          call('HSET', key, '\n', int(now))
        end
      else
        call('PEXPIRE', key, JOINS_KEPT)
        call('PEXPIRE', prefix .. ':awaited:' .. holder, JOINS_KEPT)
        if terms[2] then call('HDEL', key, '\n') end
      end
      local kept = call('EXISTS', prefix .. ':result:' .. holder)
      out[#out + 1] = { kind, digest, holder, far, int(math.max(0, now - (ended or now))), kept }
    end
  end
  if #out > 0 then call('PEXPIRE', joining, JOINS_KEPT) end
  return out
end

local kind, digest, holder = ARGV[3], ARGV[4], ARGV[5]
local key, member = key_of(kind, digest, holder), kind .. digest .. ' ' .. holder

-- Owe: ids with their entries, which get what they get at once. 0 if there are too many.
if ARGV[2] == 'owe' then
  if call('HLEN', key) > OWED_MAX then return 0 end
  for at = 6, #ARGV, 2 do call('HSET', key, ARGV[at], ARGV[at + 1]) end
  call('HSET', key, '', 'until_finished ' .. int(now))
  call('PEXPIRE', key, JOINS_KEPT)
  call('ZADD', joining, 'NX', int(now), member)
  call('PEXPIRE', joining, JOINS_KEPT)
  return 1
end

-- Ids: some that wait, each with its rule. Nobody else works on them for a while.
if ARGV[2] == 'ids' then
  call('ZADD', joining, 'XX', int(now + WORKED_ON), member)
  local found, cursor = {}, '0'
  repeat
    local scanned = call('HSCAN', key, cursor, 'COUNT', AT_ONCE)
    cursor = scanned[1]
    for at = 1, #scanned[2], 2 do
      local id = scanned[2][at]
      if id ~= '' and id ~= '\n' then
        found[#found + 1] = id
        found[#found + 1] = scanned[2][at + 1]
      end
    end
  until cursor == '0' or #found >= 2 * AT_ONCE
  return found
end

-- Done: the ids that wait no longer.
for at = 6, #ARGV do call('HDEL', key, ARGV[at]) end
if call('HLEN', key) <= call('HEXISTS', key, '') + call('HEXISTS', key, '\n') then
  call('DEL', key)
  call('ZREM', joining, member)
  call('SREM', prefix .. ':awaited:' .. holder, member)
end
return {}
