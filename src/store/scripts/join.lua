-- Ids of dropped tasks that wait for the result of a holder; the same rules as in `memory/join.rs`. See `joining.lua`, too.
--
-- `PREFIX:join:{DIGEST}:HOLDER` is a hash of ids, each with the name of the rule that dropped it and, behind a line feed, where its result
-- is published if it is not written. Its field of no name says what the holder's lock spans, and for how long its end is waited for. Of more
-- ids than a holder's result is kept ready for, `PREFIX:more:{DIGEST}:HOLDER` is the like: they get theirs without waiting for the holder.
-- What ids are owed at once, and could not be given, is kept in the like: REVOKED in the latter, SUCCESS in `PREFIX:success:{NO_KEY}:HOLDER`, and
-- what has waited for too long in `PREFIX:overdue:{NO_KEY}:`.
-- `PREFIX:joining` is a sorted set of all such hashes, `=DIGEST HOLDER` or `+DIGEST HOLDER`, by when they are to be looked at, and
-- `PREFIX:awaited:HOLDER` the set of those of one holder.
-- `PREFIX:callers` is a sorted set of queues of which callers are known to wait for results, each behind its virtual host and a line feed, by
-- until when that is known.
-- `PREFIX:result:HOLDER` is the result that the holder's worker has published, in JSON.

function make.join()

local JOINED_MAX, MORE_MAX, JOINS_KEPT, RESULT_KEPT, RESULT_BRIEFLY_KEPT = 10000, 100000, 86400000, 60000, 5000
local CALLERS_KEPT, CALLERS_MAX, CALLERS_SWEPT = 90000000, 100000, 10
local callers = prefix .. ':callers'

local function awaited_of(holder) return prefix .. ':awaited:' .. holder end

-- Where a result is published, `?` before it if that is only to be where a caller is known to wait; nothing if none is.
local function place_of(reply)
  if string.byte(reply) ~= 63 then return reply end
  reply = string.sub(reply, 2)
  local to = cjson.decode(reply)
  local known = tonumber(call('ZSCORE', callers, to[1] .. '\n' .. to[2]) or nil)
  return known and now < known and reply
end

-- The id of a task that is dropped for the holder waits for its result. `tail` is what the entry of the key in an id record ends with;
-- `reply`, if not empty, where the result is published.
function joins.add(digest, holder, id, tail, life, reply)
  reply = place_of(reply)
  if not reply then return end
  local scope, entry = string.match(tail, '^ (%S+) (.*)$')
  if reply ~= '' then entry = entry .. '\n' .. reply end
  local key, kind = prefix .. ':join:{' .. digest .. '}:' .. holder, '='
  local fields = call('HLEN', key)
  if fields > JOINED_MAX and call('HEXISTS', key, id) == 0 then
    key, kind = prefix .. ':more:{' .. digest .. '}:' .. holder, '+'
    fields = call('HLEN', key)
    if fields > MORE_MAX then return end
  end
  if fields > 0 then
    call('HSET', key, id, entry)
    return
  end
  local joining, member = prefix .. ':joining', kind .. digest .. ' ' .. holder
  call('HSET', key, id, entry, '', scope .. ' ' .. int(now + life))
  call('PEXPIRE', key, JOINS_KEPT)
  call('ZADD', joining, now_text, member)
  call('PEXPIRE', joining, JOINS_KEPT)
  call('SADD', awaited_of(holder), member)
  call('PEXPIRE', awaited_of(holder), JOINS_KEPT)
end

-- Who waits for the result of one id waits for that of another from now on.
function joins.move(digest, from, to)
  for kind, name in pairs({ ['='] = ':join:{', ['+'] = ':more:{' }) do
    local old, new = prefix .. name .. digest .. '}:' .. from, prefix .. name .. digest .. '}:' .. to
    if call('EXISTS', old) == 1 then
      call('HDEL', old, '\n')
      local former, member = kind .. digest .. ' ' .. from, kind .. digest .. ' ' .. to
      call('ZREM', prefix .. ':joining', former)
      call('SREM', awaited_of(from), former)
      if call('EXISTS', new) == 0 then
        call('RENAME', old, new)
      else
        local ids = call('HGETALL', old)
        for at = 1, #ids, 2 do call('HSETNX', new, ids[at], ids[at + 1]) end
        call('DEL', old)
      end
      call('ZADD', prefix .. ':joining', now_text, member)
      call('PEXPIRE', prefix .. ':joining', JOINS_KEPT)
      call('SADD', awaited_of(to), member)
      call('PEXPIRE', awaited_of(to), JOINS_KEPT)
    end
  end
end

-- Join: holder, where its result is published, note.
function ops.J(lock, idkey, a)
  local note = notes[ARGV[a + 2]]
  joins.add(digest_of(lock), ARGV[a], id_in(idkey), note.tail, note.life, ARGV[a + 1])
  return 0
end

-- Caller: virtual host and queue.
function ops.H(_, _, a)
  call('ZADD', callers, int(now + CALLERS_KEPT), ARGV[a])
  call('PEXPIRE', callers, CALLERS_KEPT)
  for _, lapsed in ipairs(call('ZRANGEBYSCORE', callers, '-inf', int(now), 'LIMIT', 0, CALLERS_SWEPT)) do call('ZREM', callers, lapsed) end
  call('ZREMRANGEBYRANK', callers, 0, -CALLERS_MAX - 1)
  return 0
end

-- For how long the result of the holder of this key may be wanted by those that come after it.
local function wanted(digest, id)
  local lock = lock_of(digest)
  local l = call('HMGET', lock, 'holder', 'terms', 'expires', 'aside')
  if l[1] ~= id then
    local key = l[4] and hands.key_of(lock, id)
    if key then l = call('HMGET', key, 'holder', 'terms', 'expires') end
  end
  if l[1] ~= id then return 0 end
  local ends = terms_of(l[2])
  if ends.scope == 'until_expired' or ends.release then return (tonumber(l[3]) or now) - now end
  if ends.cooldown > 0 then return ends.cooldown + RESULT_KEPT end
  return ends.hears and not string.find(ends.hears, 'P', 1, true) and RESULT_KEPT or RESULT_BRIEFLY_KEPT
end

-- Result: 1 if another may follow that counts more, the result, for how long it is kept at least. It is kept while others wait for it, or may
-- come and wait: while the holder has its lock, and for longer if that stays beyond this end, or has not heard of it.
function ops.O(_, idkey, a)
  local id, life = id_in(idkey), tonumber(ARGV[a + 2])
  for _, member in ipairs(call('SMEMBERS', awaited_of(id))) do
    life = math.max(life, RESULT_KEPT)
    call('ZADD', prefix .. ':joining', 'XX', now_text, member)
  end
  for digest in string.gmatch(call('GET', idkey) or '', '\n(%x+)') do life = math.max(life, wanted(digest, id)) end
  if life <= 0 then return 0 end
  local key = prefix .. ':result:' .. id
  if ARGV[a] == '1' then
    call('SET', key, ARGV[a + 1], 'PX', int(life), 'NX')
  else
    call('SET', key, ARGV[a + 1], 'PX', int(life))
  end
  return 0
end

end

arguments.J, arguments.O, arguments.H = 3, 3, 1

