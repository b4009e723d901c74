-- Messages that wait for the end of a holder instead of being dropped; the same rules as in `memory/twin.rs`.
--
-- `PREFIX:twin:{DIGEST}:ID` is the holder of which the message of this id is a duplicate. The lock of a holder that somebody waits for has the
-- field `waited`; when it goes, `PREFIX:fate:{DIGEST}:HOLDER` says what is known of the holder: b it has begun, e it has ended, f it has failed,
-- and since when; behind b for how long its end is waited for, since its worker may be gone without a word. A lock that goes without a word of its holder (it lapsed, it was never published, an operator freed it) leaves none: those
-- that waited are decided anew.

function make.twin()

local function twin_of(digest, id) return prefix .. ':twin:{' .. digest .. '}:' .. id end
local function fate_of(digest, holder) return prefix .. ':fate:{' .. digest .. '}:' .. holder end

-- Of whom the message of this id is a duplicate.
function twins.holder(digest, id) return call('GET', twin_of(digest, id)) end

-- It waits for this holder from now on. If that has ended, nothing more may be heard of it.
function twins.add(lock, holder, id, life, state, marks)
  call('SET', twin_of(digest_of(lock), id), holder, 'PX', int(life + DEAD_KEPT))
  call('HSET', lock, 'waited', '1')
  if state == 'cooldown' or is_marked(marks, 't') then
    call('SET', fate_of(digest_of(lock), holder), 'e' .. now_text, 'PX', int(life + DEAD_KEPT), 'NX')
  end
end

-- A holder of whose end somebody waits has its lock anew.
function twins.again(lock, digest, id)
  if call('EXISTS', fate_of(digest, id)) == 1 then call('HSET', lock, 'waited', '1') end
end

local FATES = {
  started = 'b', success = 'e', ended = 'e', failure = 'f', revoked = 'f', expired = 'f', crash = 'f', purged = 'f',
}

-- The lock of a holder that somebody waits for goes, or rests.
function twins.ends(digest, holder, reason, life)
  local fate = FATES[reason]
  if not fate then return end
  local awaited = ''
  if fate == 'b' then
    awaited = ' ' .. int(math.max(1, life))
    live_at_least(id_of(holder), life)
  end
  call('SET', fate_of(digest, holder), fate .. now_text .. awaited, 'PX', int(life + DEAD_KEPT))
end

local LATER = { k = 'e', r = 'e', f = 'f', v = 'f', x = 'f', c = 'f' }

-- Something was learnt of an id that has no lock: whether it is one that somebody waits for, and that had begun.
function twins.hears(digest, holder, signal)
  local fate = call('GET', fate_of(digest, holder))
  if not fate or string.sub(fate, 1, 1) ~= 'b' then return false end
  if LATER[signal] then call('SET', fate_of(digest, holder), LATER[signal] .. now_text, 'KEEPTTL') end
  return true
end

-- The admission of a message that may wait, by what the lock says; nothing if it is decided anew.
function twins.admit(lock, digest, id, holder, state, expires, aside)
  local twin = twins.holder(digest, id)
  if not twin then return nil end
  if holder == twin and state ~= 'cooldown' and not has_lapsed(state, expires) then
    return { 'd', digest, twin, state, math.max(0, (tonumber(expires) or 0) - now) }
  end
  if aside and hands.key_of(lock, twin) then return { 'd', digest, twin, 'queued', 0 } end
  local fate = call('GET', fate_of(digest, twin))
  if not fate and holder == twin then fate = 'e0' end
  if fate then
    local what, at, awaited = string.match(fate, '^(%a)(%d+) ?(%d*)$')
    at = tonumber(at)
    if awaited ~= '' and now >= at + tonumber(awaited) then what, at = 'e', at + tonumber(awaited) end
    return { 'e', digest, twin, what, math.max(0, now - at) }
  end
  call('DEL', twin_of(digest, id))
  return nil
end

end
