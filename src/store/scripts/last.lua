-- Keys whose newest duplicate waits for the end of the holder, for Redis; the same rules as in `memory/last.rs`.
--
-- `PREFIX:last:{DIGEST}` is the lock of the one that waits, which is the lock of the key as soon as that is gone. It is replaced like any
-- other: `PREFIX:former:{DIGEST}` is to it what `PREFIX:aside:{DIGEST}` is to the lock. The field `kept` of a lock says that somebody waits;
-- its field `aside` is empty then, unless it is to replace another.

function make.last()

local function last_of(digest) return prefix .. ':last:{' .. digest .. '}' end

-- Somebody waits for the end of the holder.
function lasts.mark(lock)
  call('HSET', lock, 'kept', '1')
  call('HSETNX', lock, 'aside', '')
end

-- The lock is gone: who waits has it; false if nobody does.
function lasts.follows(lock)
  local digest = digest_of(lock)
  local last = last_of(digest)
  if is_last(lock) or call('EXISTS', last) == 0 then return false end
  local former = hands.aside_of(last)
  call('RENAME', last, lock)
  if call('EXISTS', former) == 1 then call('RENAME', former, hands.aside_of(lock)) end
  return true
end

-- The lock of the one that waits, and what of it is asked for; no fields if nobody does.
local function waiting(digest, ...)
  local last = last_of(digest)
  local l = call('HMGET', last, 'state', 'expires', ...)
  if l[1] and has_lapsed(l[1], l[2]) then
    hands.lapses(last)
    l = call('HMGET', last, 'state', 'expires', ...)
  end
  return last, l
end

local function waits_behind(lock, last, digest, idkey, id, note, state, publishes, life, place, marks)
  take(last, id, state, publishes, life, note, now + note.lease + note.life, marks)
  hands.takes_place(last, digest, id, place)
  note_id(idkey, entry_of(digest, note), note.lease + note.life)
  lasts.mark(lock)
end

-- The key is held by another: the id waits for its end.
function lasts.keep(lock, idkey, nonce, note, holder)
  local digest, id = digest_of(lock), id_in(idkey)
  local last, l = waiting(digest, 'holder', 'place')
  if l[1] == 'leased' then
    hands.note_asked(digest, id)
    return { l[3] }
  end
  if l[1] then
    local answer = hands.replace(last, idkey, nonce, note, l[3], l[2], l[4])
    if answer[2] ~= 0 then return answer end
    lasts.mark(lock)
  else
    waits_behind(lock, last, digest, idkey, id, note, 'leased', nonce, note.lease, hands.place_asked(digest, id))
  end
  return { holder, 3 }
end

-- The broker has a message whose place has lapsed: it has it again, if that is free.
function lasts.commits(lock, idkey, nonce, note)
  local digest, id = digest_of(lock), id_in(idkey)
  local last, l = waiting(digest)
  if l[1] then return nil end
  waits_behind(lock, last, digest, idkey, id, note, 'queued', nonce .. '+', note.queued)
  return hands.committed(lock, id, nonce, 0)
end

-- A delivery of the one that waits.
function lasts.waits(lock, idkey, note, nonce, holder, reaches)
  local last = last_of(digest_of(lock))
  local l = call('HMGET', last, 'holder', 'state', 'expires', 'publishes', 'marks', 'record', 'aside', 'since')
  if l[7] then hands.supersede(last) end
  reaches(last, idkey, note, nonce, '', l)
  return { 'w', digest_of(lock), holder, l[8] }
end

-- A delivery whose key another holds. One that is not known here was published past every proxy: it is newer than what was delivered before
-- it, and older than what was not.
function lasts.admit(lock, idkey, note, nonce, holder, known)
  local digest, id = digest_of(lock), id_in(idkey)
  local last, l = waiting(digest, 'holder', 'marks')
  if l[1] then
    if known then return { 'w', digest, holder, now_text } end
    if not is_marked(l[4], 'd') then
      hands.outrun(digest, idkey, id, note, l[3])
      return { 'o', digest, l[3] }
    end
    call('RENAME', last, hands.aside_of(last))
  end
  waits_behind(lock, last, digest, idkey, id, note, 'queued', nonce .. '*+', note.queued, nil, 'dc')
  if l[1] then
    call('HSET', last, 'aside', l[3])
    hands.supersede(last)
  end
  return { 'w', digest, holder, now_text }
end

end

