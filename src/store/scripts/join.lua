-- Ids of dropped tasks that wait for the result of a holder; the same rules as in `memory/join.rs`. See `joining.lua`, too.
--
-- `PREFIX:join:{DIGEST}:HOLDER` is a hash of ids and the names of the rules that dropped them. Its field of no name says what the holder's
-- lock spans, and for how long its end is waited for. Of more ids than a holder's result is kept ready for, `PREFIX:more:{DIGEST}:HOLDER` is
-- the like: they get theirs without waiting for the holder.
-- `PREFIX:joining` is a sorted set of all such hashes, `=DIGEST HOLDER` or `+DIGEST HOLDER`, by when they are to be looked at.

function make.join()

local JOINED_MAX, MORE_MAX, JOINS_KEPT = 10000, 100000, 86400000

-- The id of a task that is dropped for the holder waits for its result. `tail` is what the entry of the key in an id record ends with.
function joins.add(digest, holder, id, tail, life)
  local scope, rule = string.match(tail, '^ (%S+) (.*)$')
  local key, kind = prefix .. ':join:{' .. digest .. '}:' .. holder, '='
  local fields = call('HLEN', key)
  if fields > JOINED_MAX and call('HEXISTS', key, id) == 0 then
    key, kind = prefix .. ':more:{' .. digest .. '}:' .. holder, '+'
    fields = call('HLEN', key)
    if fields > MORE_MAX then return end
  end
  if fields > 0 then
    call('HSET', key, id, rule)
    return
  end
  call('HSET', key, id, rule, '', scope .. ' ' .. int(now + life))
  call('PEXPIRE', key, JOINS_KEPT)
  call('ZADD', prefix .. ':joining', now_text, kind .. digest .. ' ' .. holder)
  call('PEXPIRE', prefix .. ':joining', JOINS_KEPT)
end

-- Who waits for the result of one id waits for that of another from now on.
function joins.move(digest, from, to)
  for kind, name in pairs({ ['='] = ':join:{', ['+'] = ':more:{' }) do
    local old, new = prefix .. name .. digest .. '}:' .. from, prefix .. name .. digest .. '}:' .. to
    if call('EXISTS', old) == 1 then
      call('HDEL', old, '\n')
      call('ZREM', prefix .. ':joining', kind .. digest .. ' ' .. from)
      if call('EXISTS', new) == 0 then
        call('RENAME', old, new)
      else
        local ids = call('HGETALL', old)
        for at = 1, #ids, 2 do call('HSETNX', new, ids[at], ids[at + 1]) end
        call('DEL', old)
      end
      call('ZADD', prefix .. ':joining', now_text, kind .. digest .. ' ' .. to)
      call('PEXPIRE', prefix .. ':joining', JOINS_KEPT)
    end
  end
end

-- Join: holder, note.
function ops.J(lock, idkey, a)
  local note = notes[ARGV[a + 1]]
  joins.add(digest_of(lock), ARGV[a], id_in(idkey), note.tail, note.life)
  return 0
end

end

arguments.J = 2

