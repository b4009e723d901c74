
-- Locks that change hands before their holders have begun, for Redis; the same rules as in `memory/replace.rs`.
--
-- `PREFIX:aside:{DIGEST}` is the lock that the present holder, who has a lease, is to replace; the holder's field `aside` names whose it was.
-- A lock that has one lives as long as that one at least: that its lease has lapsed is seen by `expires`.
-- `PREFIX:asked:{DIGEST}` are the places of the publishes that are asked again until a lease ends, by `:` and id, and the `last` place that
-- was given; the field `place` of a lock is its holder's.
-- The fields `due` and `first` of a lock say when its holder is due whose run is put off, until that has begun, and when the first publish of
-- its burst came; `handed` when its message went to a worker last.
-- `PREFIX:over:{DIGEST}` is what the commit of a newcomer tells: its id, the publish of the commit that has told it or nothing, what was
-- freed, the virtual host, the worker, whether it had begun.

function make.replace()

local HANDED = 1000

local function over_of(digest) return prefix .. ':over:{' .. digest .. '}' end
local function asked_of(digest) return prefix .. ':asked:{' .. digest .. '}' end

-- What the present holder of a lock is to replace, or who waits for the end of another (see `last.lua`).
function hands.aside_of(lock) return prefix .. (is_last(lock) and ':former:{' or ':aside:{') .. digest_of(lock) .. '}' end

local function somebody_waits(lock)
  return not is_last(lock) and call('EXISTS', prefix .. ':last:{' .. digest_of(lock) .. '}') == 1
end

-- What was to be replaced is the lock again, else who waits has it; false if there is nothing.
function hands.gives_back(lock)
  if not call('HGET', lock, 'aside') then return false end
  local aside = hands.aside_of(lock)
  if call('EXISTS', aside) == 0 then return somebody_waits(lock) and lasts.follows(lock) end
  call('RENAME', aside, lock)
  if somebody_waits(lock) then lasts.mark(lock) end
  return true
end

-- A lease has lapsed: it is the lock no more.
function hands.lapses(lock)
  if not hands.gives_back(lock) then call('DEL', lock) end
end

-- The lock that was set aside has changed.
function hands.aside_changed(lock)
  local left = call('PTTL', hands.aside_of(lock))
  if left > 0 then return live_at_least(lock, left) end
  if somebody_waits(lock) then call('HSET', lock, 'aside', '') else call('HDEL', lock, 'aside', 'kept') end
end

-- Where the lock of this id is that does not hold the key: set aside, or waiting, or set aside there. Nothing if it has none.
function hands.key_of(lock, id)
  local last = prefix .. ':last:{' .. digest_of(lock) .. '}'
  for _, key in ipairs({ hands.aside_of(lock), last, hands.aside_of(last) }) do
    if call('HGET', key, 'holder') == id then return key end
  end
end

-- What is there has changed.
function hands.changed(lock, key)
  local last = prefix .. ':last:{' .. digest_of(lock) .. '}'
  if key == hands.aside_of(last) then hands.aside_changed(last) end
  hands.aside_changed(lock)
end

-- Answers a question of the id whose lock is there.
function hands.ask(op, lock, key, idkey, a)
  local answer = op(key, idkey, a)
  hands.changed(lock, key)
  return answer
end

-- The place of a publish that waits for a lease, among all that were given under the key.
function hands.place_asked(digest, id) return tonumber(call('HGET', asked_of(digest), ':' .. id) or nil) end

-- A place behind all others. It counts on from the time, so that it is behind those that are forgotten, too.
local function next_place(digest)
  local key = asked_of(digest)
  local place = math.max((tonumber(call('HGET', key, 'last') or nil) or 0) + 1, now * 1000)
  call('HSET', key, 'last', int(place))
  call('PEXPIRE', key, ENDED_KEPT)
  return place
end

-- A publish that replaces has found a lease: it is asked again, and then has come before those that ask meanwhile.
function hands.note_asked(digest, id)
  local key = asked_of(digest)
  if call('PEXPIRE', key, ENDED_KEPT) == 0 or call('HEXISTS', key, ':' .. id) == 0 then
    call('HSET', key, ':' .. id, int(next_place(digest)))
  end
end

-- The place of one that gets the lock.
function hands.takes_place(lock, digest, id, place)
  call('HSET', lock, 'place', int(place or next_place(digest)))
  if place then call('HDEL', asked_of(digest), ':' .. id) end
end

-- One has taken a free lock; somebody may wait who came before.
function hands.takes_free(lock, digest, id)
  if call('EXISTS', asked_of(digest)) == 1 then hands.takes_place(lock, digest, id, hands.place_asked(digest, id)) end
end

-- One that has waited finds a newer one: it goes out, and is not to run.
function hands.outrun(digest, idkey, id, note, holder)
  local kept = math.min(note.life + DEAD_KEPT, DEAD_LONGEST)
  call('HDEL', asked_of(digest), ':' .. id)
  call('SET', dead_of(digest, id), 'n' .. holder, 'PX', int(kept))
  if note.joins then joins.add(digest, holder, id, note.tail, note.life, note.joins) end
  note_id(idkey, entry_of(digest, note), kept)
  return { holder, 1 }
end

-- The id has taken the lock in a burst that began then, or begins with it.
function hands.put_off(lock, note, holder, first)
  first = tonumber(first or nil) or now
  local due = now + note.quiet
  if note.longest then due = math.min(due, first + note.longest) end
  call('HSET', lock, 'first', int(first), 'due', int(due))
  return { holder or '', 2, int(due) }
end

-- The id has published again.
function hands.is_put_off(lock, holder)
  local due = call('HGET', lock, 'due')
  if not due then return 1 end
  return { holder or '', 2, due }
end

-- Whether the time of the holder has come and a worker has had its message for a moment: to let a newer one take the lock over now, again and
-- again, would put its run off for ever.
local function is_about_to_begin(lock)
  local l = call('HMGET', lock, 'due', 'handed')
  return l[1] and l[2] and tonumber(l[1]) <= now and now < tonumber(l[2]) + HANDED
end

-- Sets the lock of a holder that has not begun aside for a newcomer's lease. `at`: the place of the holder.
function hands.replace(lock, idkey, nonce, note, holder, expires, at)
  local digest, id = digest_of(lock), id_in(idkey)
  local place = hands.place_asked(digest, id)
  if note.quiet and is_about_to_begin(lock) then
    hands.note_asked(digest, id)
    return { holder }
  end
  if place and place < (tonumber(at) or 0) then return hands.outrun(digest, idkey, id, note, holder) end
  local burst = note.quiet and call('HMGET', lock, 'due', 'first') or {}
  call('RENAME', lock, hands.aside_of(lock))
  take(lock, id, 'leased', nonce, note.lease, note, now + note.lease + note.life)
  call('HSET', lock, 'aside', holder)
  if somebody_waits(lock) then lasts.mark(lock) end
  live_at_least(lock, (tonumber(expires) or now) - now)
  hands.takes_place(lock, digest, id, place)
  note_id(idkey, entry_of(digest, note), note.lease + note.life)
  if note.quiet then return hands.put_off(lock, note, holder, burst[1] and burst[2]) end
  return { holder, 0 }
end

-- The broker has the message of the holder: the one whose lock was set aside is not to run any more.
function hands.supersede(lock)
  local digest, l = digest_of(lock), call('HMGET', lock, 'holder', 'expires', 'aside')
  if l[3] == '' then return end
  local aside, expires = hands.aside_of(lock), math.max(tonumber(l[2]) or 0, now + 1)
  if somebody_waits(lock) then call('HSET', lock, 'aside', '') else call('HDEL', lock, 'aside') end
  local o = call('HMGET', aside, 'holder', 'state', 'terms', 'rule', 'task', 'since', 'shadow', 'vhost', 'worker', 'scope', 'hides')
  if not o[1] or o[1] ~= l[3] then return end
  call('DEL', aside)
  call('HSET', lock, 'expires', int(expires))
  call('PEXPIRE', lock, int(expires - now))
  local kept, begun = math.min(terms_of(o[3]).life + DEAD_KEPT, DEAD_LONGEST), o[2] == 'running'
  call('SET', dead_of(digest, o[1]), begun and 'r' or 'n' .. l[1], 'PX', int(kept))
  if o[11] and not begun then
    -- The older one gets the result of the newer, and so does who waits for that of the older. What a worker has is revoked there instead.
    joins.move(digest, o[1], l[1])
    if string.byte(o[11]) == 106 and (o[9] or '') == '' then
      joins.add(digest, l[1], o[1], ' ' .. (o[10] or '') .. ' ' .. (o[4] or ''), terms_of(o[3]).life, string.sub(o[11], 2))
    end
  end
  note_id(id_of(o[1]), '\n' .. digest .. ' ' .. (o[10] or '') .. ' ' .. (o[4] or ''), kept)
  local telling = freed(digest, 'replaced', o[1], o[4], o[5], o[6], o[7], o[8])
  call('SET', over_of(digest), cmsgpack.pack({ l[1], '', telling, o[8] or '', o[9] or '', begun and 1 or 0 }), 'PX', ENDED_KEPT)
end

-- What a commit tells beside what it has found.
function hands.committed(lock, id, nonce, found)
  local key = over_of(digest_of(lock))
  local packed = call('GET', key)
  if not packed then return found end
  local over = cmsgpack.unpack(packed)
  if over[1] ~= id or over[2] ~= '' and over[2] ~= nonce then return found end
  if over[2] == '' then
    over[2] = nonce
    call('SET', key, cmsgpack.pack(over), 'KEEPTTL')
  end
  return { over[3], over[4], over[5], over[6] }
end

end
