-- The rules of the locks, for Redis: many questions in one call, each answered by itself. The same rules as in `memory.rs`.
--
-- KEYS: two per question, the lock and the id record; a question about an id alone has its record twice.
-- ARGV: the prefix of all keys, how many notes there are and the notes, then per question its letter and its arguments (see `wire.rs`). A
-- note is what many questions of one call say alike; they name it by its place.
-- A lock is a hash; its field `publishes` lists the holder's publishes by nonce: `N` is forwarded, `N+` the broker has, `N-BY` is settled or
-- withdrawn by the request BY; with a `*` behind N it is a delivery, in place of a publish that is not known here. The field `terms` says
-- what frees the lock, in words: the scope, the settle grace, `late` if the ack ends the task or else `early`, the sources of signals that
-- the lock listens to or `*` (A acks, E events, P rpc results, B the result backend), the life, the outcome that frees, the cooldown.
-- The field `marks` has a letter for each that is so: `d` once a worker has had the message, `c` once a proxy has carried it there, `t` once
-- the lock's going was told. The field `record` is a time until which the record of the holder lives, unless the lock's going was told.
-- An id record is a string of entries, one per key that the id has claimed: a line feed, the digest, the scope, the rule. Of a key that it
-- runs, the digest has a `+` before it (see `run.lua`).
-- `PREFIX:ended:ID` is what workers' signals leave behind for the commits that come after them: words, each with a blank before and behind,
-- of how much a signal says (d begun, a acknowledged, r over), its source if no lock has heard it, and a publish that it ended, `~` for one that only its delivery was known of, or `*`.
-- `PREFIX:super:{DIGEST}:ID` is there while an id is not to run any more under a key; its value is `n` and the newer id if one took its lock
-- and it is not known to have run, `r` if it is.

local ARGV, KEYS, call = ARGV, KEYS, redis.call
local prefix = ARGV[1]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ENDED_KEPT, UNKNOWN_KEPT, PUBLISHES_KEPT, ENDED_WORDS = 60000, 10000, 16, 64
local DEAD_KEPT, DEAD_LONGEST, RECORD_AHEAD = 86400000, 34560000000, 30000

-- Redis writes a Lua number as a floating point number, which is slow. Most questions of one call write the same few.
local ints = {}
local function int(number)
  local text = ints[number]
  if not text then
    text = string.format('%d', number)
    ints[number] = text
  end
  return text
end
local now_text = int(now)

local function digest_of(lock) return string.sub(lock, -65, -2) end
-- Of each note: what frees such a lock, what of that is asked at an acquire, the rest of its entry in an id record, lease, life, life while
-- its holder has not begun, what it does if its key is held (0 nothing, 1 it replaces, d it replaces and is put off for so long, at the
-- longest for so long after the first of its burst; k it waits for the end of the holder; j if its id gets the result of a newer one, and
-- where that is published), and the fields of the lock that do not change, packed.
local notes, first_question = {}, 3 + 8 * ARGV[2]
for at = 3, first_question - 1, 8 do
  local held = ARGV[at + 6]
  local quiet, longest = string.match(held, '^d(%d+) (%d*)')
  local keeps = string.byte(held) == 107
  notes[tostring((at + 5) / 8)] = {
    ends = ARGV[at], asked = ARGV[at + 1], tail = ARGV[at + 2], lease = tonumber(ARGV[at + 3]), life = tonumber(ARGV[at + 4]),
    queued = tonumber(ARGV[at + 5]), turns = held ~= '0', replaces = held ~= '0' and not keeps, keeps = keeps, quiet = tonumber(quiet),
    longest = tonumber(longest), hides = quiet ~= nil or keeps, joins = string.match(held, '^[dk][%d ]*j(.*)$'),
    fields = cmsgpack.unpack(ARGV[at + 7]),
  }
end
local function entry_of(digest, note) return '\n' .. digest .. note.tail end

local ID_AT = #prefix + 5
local function id_in(idkey) return string.sub(idkey, ID_AT) end
local function lock_of(digest) return prefix .. ':lock:{' .. digest .. '}' end
local function id_of(id) return prefix .. ':id:' .. id end
local function ended_of(id) return prefix .. ':ended:' .. id end
local function is_last(lock) return string.sub(lock, #prefix + 2, #prefix + 6) == 'last:' end
local function dead_of(digest, id) return prefix .. ':super:{' .. digest .. '}:' .. id end
-- The newer id that the id has lost its lock to, if it is not known to have run.
local function replaced_by(digest, id) return string.match(call('GET', dead_of(digest, id)) or '', '^n(.*)$') end
-- Whether the id has lost its lock to a newer one, whether or not it has run for all that.
local function was_replaced(digest, id) return string.match(call('GET', dead_of(digest, id)) or '', '^[nr]') ~= nil end
local function is_dead(digest, id) return call('EXISTS', dead_of(digest, id)) == 1 end

local function parse(publishes)
  -- Mostly there is one.
  local only, starred, state, request = string.match(publishes or '', '^(%x+)(%*?)([+-]?)(%x*)$')
  if only then return { { only, state, request, starred } } end
  local list = {}
  for nonce, star, mark, by in string.gmatch(publishes or '', '(%x+)(%*?)([+-]?)(%x*)') do
    list[#list + 1] = { nonce, mark, by, star }
  end
  return list
end

local function format(list)
  local words = {}
  for i, p in ipairs(list) do words[i] = p[1] .. p[4] .. p[2] .. p[3] end
  return table.concat(words, ' ')
end

local function in_flight(list)
  local n = 0
  for _, p in ipairs(list) do
    if p[2] ~= '-' then n = n + 1 end
  end
  return n
end

local function find(list, nonce)
  for _, p in ipairs(list) do
    if p[1] == nonce then return p end
  end
end

-- The oldest delivery that stands in place of a publish.
local function unknown(list)
  for _, p in ipairs(list) do
    if p[4] ~= '' then return p end
  end
end

local function push(list, nonce, mark, star)
  if #list >= PUBLISHES_KEPT then
    local oldest = 1
    for i, p in ipairs(list) do
      if p[2] == '-' then oldest = i break end
    end
    table.remove(list, oldest)
  end
  list[#list + 1] = { nonce, mark, '', star or '' }
end

local function publish_of(p) return p[4] == '' and p[1] or '~' end

local function settled(list)
  local words = {}
  for _, p in ipairs(list) do
    if p[2] == '-' then words[#words + 1] = publish_of(p) end
  end
  return words
end

local function all(list)
  local words = {}
  for i, p in ipairs(list) do words[i] = publish_of(p) end
  return words
end

-- Settles the oldest publish that is open; false if this settlement was counted before.
local function settle(list, settlement)
  local oldest
  for _, p in ipairs(list) do
    if p[2] == '-' then
      if p[3] == settlement then return false end
    elseif not oldest then
      oldest = p
    end
  end
  if oldest then oldest[2], oldest[3] = '-', settlement end
  return true
end

-- Takes the lock; the record of the id lives until `record` at least.
local function take(lock, id, state, publishes, life, note, record, marks)
  call('HSET', lock, 'holder', id, 'state', state, 'expires', int(now + life), 'publishes', publishes, 'marks', marks or '', 'record',
    int(record), 'since', now_text, unpack(note.fields))
  call('PEXPIRE', lock, int(life))
end

local function is_marked(marks, mark) return marks and string.find(marks, mark, 1, true) end
local function unmarked(marks, mark) return (string.gsub(marks or '', mark, '')) end

-- What frees a lock, by its words: mostly the same for many questions of one call.
local terms = {}
local function terms_of(words)
  local known = terms[words or '']
  if not known then
    local scope, grace, late, hears, life, release, cooldown = string.match(words or '', '^(%S+) (%d+) (%l+) (%S+) (%d+) (%l+) (%d+)$')
    known = {
      scope = scope, grace = tonumber(grace) or 0, late = late == 'late', hears = hears ~= '*' and hears or nil,
      life = tonumber(life) or 1, release = release ~= 'both' and release or nil, cooldown = tonumber(cooldown) or 0,
    }
    terms[words or ''] = known
  end
  return known
end

-- Redis makes every function anew for each call, which takes longer than most questions: those are made that the questions want. A kind of
-- question is made by the function that `made_by` names; `make.run` is in `run.lua`.
local make, ops = {}, {}
local made_by = {
  A = 'publish', C = 'publish', R = 'publish', U = 'publish', S = 'signal', M = 'delivery', N = 'delivery', W = 'operator', Q = 'operator',
  G = 'run', K = 'run', E = 'run', L = 'run', V = 'run', D = 'run', J = 'join', O = 'join', H = 'join', X = 'limit', Y = 'limit', Z = 'limit',
}
setmetatable(ops, { __index = function(_, op)
  make[made_by[op]]()
  return rawget(ops, op)
end })

-- Of running locks, see `run.lua`: what a signal does to them, and whether a record lists one.
local runs = {}
setmetatable(runs, { __index = function(_, name)
  make.run()
  return rawget(runs, name)
end })

-- Of ids that wait for a holder's result, see `join.lua`.
local joins = {}
setmetatable(joins, { __index = function(_, name)
  make.join()
  return rawget(joins, name)
end })

-- Of messages that wait for the end of a holder, see `twin.lua`.
local twins = {}
setmetatable(twins, { __index = function(_, name)
  make.twin()
  return rawget(twins, name)
end })

-- Of locks that change hands, see `replace.lua`.
local hands = {}
setmetatable(hands, { __index = function(_, name)
  make.replace()
  return rawget(hands, name)
end })

-- Of locks whose newest duplicate waits, see `last.lua`.
local lasts = {}
setmetatable(lasts, { __index = function(_, name)
  make.last()
  return rawget(lasts, name)
end })
local function has_lapsed(state, expires) return state == 'leased' and (tonumber(expires) or 0) <= now end

local function lists(record, digest) return string.find(record, '\n' .. digest .. ' ', 1, true) end

-- Where in the record the entry of the key begins and ends, if it is there.
local function find_entry(record, digest)
  return string.find(record, '\n' .. digest .. ' [^\n]*')
end

local function live_at_least(key, life)
  if call('PTTL', key) < life then call('PEXPIRE', key, int(life)) end
end

-- The record lists the key, and lives at least that long.
local function note_id(idkey, entry, life)
  if call('SET', idkey, entry, 'PX', int(life), 'NX') then return end
  local record = call('GET', idkey)
  if lists(record, string.sub(entry, 2, 65)) then return live_at_least(idkey, life) end
  call('SET', idkey, record .. entry, 'PX', int(math.max(life, call('PTTL', idkey))))
end

-- The record of the holder of a lock lives that long: what it is known to live for spares the question. Returns until when.
local function record_for(idkey, lock, note, known, told, life)
  known = not told and tonumber(known) or 0
  if known >= now + life then return known end
  local ahead = life + math.min(RECORD_AHEAD, math.floor(life / 8))
  local left = call('PTTL', idkey)
  if left < life then
    if left < 0 then
      if not note then return 0 end
      note_id(idkey, entry_of(digest_of(lock), note), ahead)
    else
      call('PEXPIRE', idkey, int(ahead))
    end
    return now + ahead
  end
  return now + left
end

local function forget_id(idkey, digest)
  local record = call('GET', idkey)
  if not record then return end
  local from, to = find_entry(record, digest)
  if not from then return end
  record = string.sub(record, 1, from - 1) .. string.sub(record, to + 1)
  if record == '' then
    call('DEL', idkey)
  else
    call('SET', idkey, record, 'KEEPTTL')
  end
end

local function prolong(lock, expires, life)
  if now + life > (tonumber(expires) or 0) then
    call('HSET', lock, 'expires', int(now + life))
    call('PEXPIRE', lock, int(life))
  end
end

local FREEING = { s = { 'd', 'a', 'r' }, a = { 'a', 'r' }, r = { 'r' }, n = {} }
local LEAST = { d = 's', a = 'a', r = 'r' }

-- Whether a signal that frees such a lock has ended this publish, or any if none is given. `ends` is what frees it: s any signal, a an ack
-- or an end, r an end, n none, and the sources that it listens to.
local function heard(id, nonce, ends)
  if ends == 'n' then return false end
  local words = call('GET', ended_of(id))
  if not words then return false end
  for _, verdict in ipairs(FREEING[string.sub(ends, 1, 1)]) do
    for source, publish in string.gmatch(words, ' ' .. verdict .. '(%u?)(%S*)') do
      local listens = source == '' or string.find(ends, source, 2, true)
      if listens and (not nonce or publish == '*' or publish == '~' or publish == nonce) then return true end
    end
  end
  return false
end

local function ended(digest, id, nonce, ends) return is_dead(digest, id) or heard(id, nonce, ends) end

-- Notes a signal and the publishes that it ended; it takes no earlier one back. One that does not know which, behind one that said as much,
-- is the same told twice.
local function note_ended(id, verdict, source, publishes, kept)
  local key = ended_of(id)
  -- Mostly it is the first word.
  if #publishes == 1 and call('SET', key, ' ' .. verdict .. source .. publishes[1] .. ' ', 'PX', int(kept), 'NX') then return end
  local words, left = call('GET', key), 0
  if words then left = call('PTTL', key) else words = ' ' end
  if publishes[1] == '*' and heard(id, nil, LEAST[verdict] .. source) then return end
  for _, publish in ipairs(publishes) do
    local word = ' ' .. verdict .. source .. publish .. ' '
    if not string.find(words, word, 1, true) then
      local _, count = string.gsub(words, '%S+', '')
      if count >= ENDED_WORDS then
        local all = ' '
        for said in string.gmatch(words, ' (%l%u?)') do
          if not string.find(all, ' ' .. said .. '* ', 1, true) then all = all .. said .. '* ' end
        end
        words = all
      end
      words = words .. string.sub(word, 2)
    end
  end
  call('SET', key, words, 'PX', int(math.max(left, kept)))
end

local function prolong_ended(id)
  if call('PTTL', ended_of(id)) > 0 then call('PEXPIRE', ended_of(id), ENDED_KEPT) end
end

-- What `freed` tells of a lock, as fields to ask for and as an answer.
local function freed(digest, reason, holder, rule, task, since, shadow, vhost)
  return { digest, holder, rule or '', task or '', reason, now - (tonumber(since) or now), shadow and 1 or 0, vhost or '' }
end

-- The publishes that a signal ends under a key whose lock the id does not hold.
local UNJUDGED = { '*' }
-- The signals that count only if the lock listens to their source, and those of them that settle a message.
local LISTENED = { a = true, l = true, d = true, s = true, k = true, f = true }
local SETTLING = { a = true, l = true, r = true, d = true }

function make.publish()

-- Acquire: nonce, reentrant (1; or j if the id waits for the holder's result where it is dropped, w if its message does), note.
function ops.A(lock, idkey, a)
  local id, nonce, note = id_in(idkey), ARGV[a], notes[ARGV[a + 2]]
  local lease, life = note.lease, note.life
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes', 'marks', 'aside', 'place')
  local holder = l[1]
  if not holder and note.keeps and lasts.follows(lock) then return ops.A(lock, idkey, a) end
  if not holder then
    local twin = ARGV[a + 1] == 'w' and twins.holder(digest_of(lock), id)
    if twin then return { twin, 'queued', 0 } end
    -- What only observes does not wait for this answer, and may have ended.
    if heard(id, nonce, note.asked) then return 0 end
    -- The record goes first: only an id that has one, or a retry, can be dead.
    local digest = digest_of(lock)
    local entry = entry_of(digest, note)
    local fresh = call('SET', idkey, entry, 'PX', int(lease + life), 'NX')
    if (not fresh or ARGV[a + 1] == '1') and is_dead(digest, id) then
      if fresh then call('DEL', idkey) end
      return 2
    end
    if not fresh then note_id(idkey, entry, lease + life) end
    take(lock, id, 'leased', nonce, lease, note, now + lease + life)
    if not fresh or ARGV[a + 1] == '1' then twins.again(lock, digest, id) end
    if note.turns then hands.takes_free(lock, digest, id) end
    if note.quiet and ARGV[a + 1] ~= '1' then return hands.put_off(lock, note, false) end
    return 0
  end
  if holder == id then
    local list = parse(l[4])
    local publish = find(list, nonce)
    -- A question that comes behind its own end brings nothing back.
    if publish and publish[2] == '-' then return 1 end
    if not publish then push(list, nonce, '') end
    call('HSET', lock, 'publishes', format(list), 'marks', unmarked(l[5], 't'), 'record', int(now + lease + life))
    prolong(lock, l[3], lease)
    if l[6] then hands.aside_changed(lock) end
    note_id(idkey, entry_of(digest_of(lock), note), lease + life)
    if note.quiet and ARGV[a + 1] ~= '1' and l[2] ~= 'running' then return hands.is_put_off(lock, publish and l[6] or not publish and id) end
    return 1
  end
  local key = l[6] and hands.key_of(lock, id)
  if key then return hands.ask(ops.A, lock, key, idkey, a) end
  if has_lapsed(l[2], l[3]) then
    hands.lapses(lock)
    return ops.A(lock, idkey, a)
  end
  if ARGV[a + 1] == '1' or string.find(call('GET', idkey) or '', digest_of(lock), 1, true) then
    note_id(idkey, entry_of(digest_of(lock), note), lease + life)
    return 2
  end
  if note.keeps then return lasts.keep(lock, idkey, nonce, note, holder) end
  if note.replaces and l[2] == 'queued' and not is_marked(l[5], 't') then
    return hands.replace(lock, idkey, nonce, note, holder, l[3], l[7])
  end
  if l[2] == 'leased' then
    if note.turns then hands.note_asked(digest_of(lock), id) end
    return { holder }
  end
  if string.byte(ARGV[a + 1]) == 106 then joins.add(digest_of(lock), holder, id, note.tail, life, string.sub(ARGV[a + 1], 2)) end
  if ARGV[a + 1] == 'w' then twins.add(lock, holder, id, life, l[2], l[5]) end
  return { holder, l[2], math.max(0, (tonumber(l[3]) or now) - now) }
end

-- Commit: nonce, note.
function ops.C(lock, idkey, a)
  local id, nonce, note = id_in(idkey), ARGV[a], notes[ARGV[a + 1]]
  local life = note.queued
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes', 'marks', 'record', 'aside')
  local holder = l[1]
  if holder == id then
    if l[7] then hands.supersede(lock) end
    local publishes = nonce .. '+'
    if l[4] ~= nonce then
      local list = parse(l[4])
      local publish = find(list, nonce)
      if not publish then
        -- A delivery of it came first, or its end.
        local delivery = unknown(list)
        if delivery then
          delivery[1], delivery[4] = nonce, ''
        elseif ended(digest_of(lock), id, nonce, note.ends) then
          return note.replaces and hands.committed(lock, id, nonce, 1) or 1
        else
          push(list, nonce, '+')
        end
      elseif publish[2] == '' then
        publish[2] = '+'
      end
      publishes = format(list)
    end
    if l[2] == 'cooldown' or is_marked(l[5], 't') then
      call('HSET', lock, 'publishes', publishes)
      return note.turns and hands.committed(lock, id, nonce, 1) or 1
    end
    local expires, state = math.max(now + life, tonumber(l[3]) or 0), l[2] == 'leased' and 'queued' or l[2]
    if (tonumber(l[6]) or 0) >= expires then
      call('HSET', lock, 'state', state, 'expires', int(expires), 'publishes', publishes)
    else
      note_id(idkey, entry_of(digest_of(lock), note), expires - now)
      call('HSET', lock, 'state', state, 'expires', int(expires), 'publishes', publishes, 'record', int(expires))
    end
    call('PEXPIRE', lock, int(expires - now))
    return note.turns and hands.committed(lock, id, nonce, 0) or 0
  end
  if not holder and note.keeps and lasts.follows(lock) then return ops.C(lock, idkey, a) end
  if holder then
    local key = l[7] and hands.key_of(lock, id)
    if key then return hands.ask(ops.C, lock, key, idkey, a) end
    if has_lapsed(l[2], l[3]) then
      hands.lapses(lock)
      return ops.C(lock, idkey, a)
    end
  end
  if ended(digest_of(lock), id, nonce, note.ends) then
    return note.turns and hands.committed(lock, id, nonce, 1) or 1
  end
  if holder then return note.keeps and lasts.commits(lock, idkey, nonce, note) or { holder } end
  take(lock, id, 'queued', nonce .. '+', life, note, now + life)
  twins.again(lock, digest_of(lock), id)
  note_id(idkey, entry_of(digest_of(lock), note), life)
  return note.turns and hands.committed(lock, id, nonce, 0) or 0
end

-- Lease renewal: nonce, note.
function ops.R(lock, idkey, a)
  local id, nonce, note = id_in(idkey), ARGV[a], notes[ARGV[a + 1]]
  local lease, life = note.lease, note.queued
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes', 'aside')
  if not l[1] and note.keeps and lasts.follows(lock) then return ops.R(lock, idkey, a) end
  local key = l[1] and l[1] ~= id and l[5] and hands.key_of(lock, id)
  if key then return hands.ask(ops.R, lock, key, idkey, a) end
  if l[1] then
    if l[1] == id and l[2] == 'leased' and in_flight(parse(l[4])) > 0 then
      prolong(lock, l[3], lease)
      if l[5] then hands.aside_changed(lock) end
    end
    prolong_ended(id)
  elseif ended(digest_of(lock), id, nonce, note.ends) then
    prolong_ended(id)
  else
    take(lock, id, 'leased', nonce, lease, note, now + lease + life)
    twins.again(lock, digest_of(lock), id)
    note_id(idkey, entry_of(digest_of(lock), note), lease + life)
  end
  return 0
end

-- Unpublish: nonce, reason.
function ops.U(lock, idkey, a)
  local id, nonce = id_in(idkey), ARGV[a]
  local l = call('HMGET', lock, 'holder', 'state', 'publishes', 'rule', 'task', 'since', 'shadow', 'marks', 'aside', 'vhost')
  if l[1] ~= id then
    local key = l[9] and hands.key_of(lock, id)
    return key and hands.ask(ops.U, lock, key, idkey, a) or {}
  end
  local list = parse(l[3])
  local publish = find(list, nonce)
  if not publish or publish[2] == '-' then return {} end
  -- A worker has had it in its hands: the broker has it, whatever became of its confirm.
  if is_marked(l[8], 'd') and #list == 1 then return {} end
  publish[2], publish[3] = '-', nonce
  if in_flight(list) > 0 or (l[2] ~= 'leased' and l[2] ~= 'queued') then
    call('HSET', lock, 'publishes', format(list))
    return {}
  end
  if not l[9] or not hands.gives_back(lock) then call('DEL', lock) end
  forget_id(idkey, digest_of(lock))
  return { freed(digest_of(lock), ARGV[a + 1], id, l[4], l[5], l[6], l[7], l[10]) }
end

end

function make.signal()

-- The lock of an id that goes on, with its full life.
local function goes_on(lock, idkey, state, publishes, life, l, marks, worker)
  local expires, told, known = l[3], is_marked(l[5], 't'), tonumber(l[6]) or 0
  local longer = now + life > (tonumber(expires) or 0)
  if longer then expires = int(now + life) end
  if told or known < now + life then known = record_for(idkey, nil, nil, known, told, life) end
  if worker == '' then
    call('HSET', lock, 'state', state, 'expires', expires, 'publishes', publishes, 'marks', marks, 'record', int(known))
  else
    call('HSET', lock, 'state', state, 'expires', expires, 'publishes', publishes, 'marks', marks, 'record', int(known), 'worker', worker)
  end
  if longer then call('PEXPIRE', lock, int(life)) end
  return true
end

-- What a signal does to one lock: whether the id still claims the key, the publishes it ends if any, and what is told if the lock goes.
local function signal_one(lock, digest, idkey, id, settlement, signal, worker, source)
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes', 'marks', 'record', 'terms', 'aside', 'waited')
  if l[1] ~= id then
    if not l[1] and lasts.follows(lock) then return signal_one(lock, digest, idkey, id, settlement, signal, worker, source) end
    if l[8] and hands.key_of(lock, id) then return nil end
    if (signal == 's' or signal == 'k' or signal == 'f') and replaced_by(digest, id) then
      call('SET', dead_of(digest, id), 'r', 'KEEPTTL')
      return true, nil, 'ran'
    end
    if signal == 't' or signal == 'o' or is_dead(digest, id) then return true end
    if twins.hears(digest, id, signal) then return true, UNJUDGED end
    return false, UNJUDGED
  end
  -- All but these are of a message that the broker has had.
  if l[8] and signal ~= 'p' and signal ~= 'o' and signal ~= 'q' then hands.supersede(lock) end
  local ends, marks = terms_of(l[7]), l[5] or ''
  local scope, runs, life, told = ends.scope, l[2] == 'running', ends.life, is_marked(marks, 't')
  if scope == 'until_expired' or l[2] == 'cooldown' then return true end
  -- Mostly it is the start of a task that acknowledges early, and its only message: whether or not the lock listens, a worker has begun.
  if signal == 'a' and scope == 'until_finished' and not ends.late then
    local open = string.match(l[4] or '', '^(%x+%*?)%+?$')
    if open then return goes_on(lock, idkey, 'running', open .. '-' .. settlement, life, l, 'dc', worker) end
  end
  local list = parse(l[4])
  if SETTLING[signal] then
    if not settle(list, settlement) then return true end
    if not is_marked(marks, 'c') then marks = marks .. 'c' end
  end

  local function tell(reason)
    if told then return nil end
    local about = call('HMGET', lock, 'rule', 'task', 'since', 'shadow', 'vhost')
    return freed(digest, reason, id, about[1], about[2], about[3], about[4], about[5])
  end
  local function frees(reason, publishes)
    local telling = tell(reason)
    if l[9] then twins.ends(digest, id, reason, life) end
    if not l[8] or not hands.gives_back(lock) then call('DEL', lock) end
    return l[9] and reason == 'started', publishes, telling
  end
  local function supersedes(reason)
    local kept, telling = math.min(life + DEAD_KEPT, DEAD_LONGEST), tell(reason)
    if l[9] then twins.ends(digest, id, reason, life) end
    if not l[8] or not hands.gives_back(lock) then call('DEL', lock) end
    call('SET', dead_of(digest, id), '1', 'PX', int(kept))
    live_at_least(idkey, kept)
    return true, all(list), telling
  end
  local function counts()
    call('HSET', lock, 'publishes', format(list), 'marks', marks)
    return true
  end
  local listens = not LISTENED[signal] or not ends.hears or string.find(ends.hears, source, 1, true)
  if signal == 'a' or signal == 'l' or signal == 'd' or signal == 's' then
    -- Per run, started never follows ended.
    if told and (signal == 'd' or signal == 's') then return counts() end
    if not listens and (signal == 'a' and not ends.late or signal == 'd' or signal == 's') and scope == 'until_finished' then
      -- A lock that lasts until the end shows nevertheless that a worker has begun: no revoke that is asked of all frees it then.
      signal, listens = 's', true
    end
    if not listens then return counts() end
    if scope == 'until_started' then
      -- A start tells of one message, as an ack does.
      if signal == 's' then settle(list, settlement) end
      return frees('started', settled(list))
    end
    if signal == 'l' or signal == 'a' and ends.late then
      if in_flight(list) > 0 then return counts() end
      local grace = math.min(ends.grace, math.max(0, (tonumber(l[3]) or now) - now))
      local telling = tell('ended')
      if l[9] then twins.ends(digest, id, 'ended', life) end
      call('HSET', lock, 'expires', int(now + grace), 'publishes', format(list), 'marks', told and marks or marks .. 't')
      call('PEXPIRE', lock, int(grace))
      return true, settled(list), telling, grace
    end
    marks = unmarked(marks, 't')
    if not is_marked(marks, 'd') then marks = 'd' .. marks end
    return goes_on(lock, idkey, 'running', format(list), life, l, marks, worker)
  end
  if signal == 'r' then return frees('ended', settled(list)) end
  if signal == 'v' then return frees('revoked', all(list)) end
  if signal == 'c' then return frees('crash', all(list)) end
  if signal == 'o' then
    -- Of what no proxy has carried no settlement is seen.
    if call('HGET', lock, 'worker') ~= worker or (is_marked(marks, 'c') and in_flight(list) > 0) then return true end
    return frees('crash', all(list))
  end
  -- The retry's own message was counted, and has ended: its word comes late.
  if signal == 't' and told and #list > 1 then return true end
  if signal == 't' and scope == 'until_finished' then call('HDEL', lock, 'due') end
  if signal == 't' then return scope ~= 'until_finished' or goes_on(lock, idkey, 'queued', format(list), life, l, unmarked(marks, 't'), '') end
  if not listens then return true end
  if signal == 'k' or signal == 'f' then
    local outcome, rest = signal == 'k' and 'success' or 'failure', 0
    if scope == 'until_started' then
      rest = 0
    elseif ends.release and ends.release ~= outcome then
      rest = life
    elseif signal == 'k' then
      rest = ends.cooldown
    end
    if rest == 0 then return frees(outcome, all(list)) end
    if l[9] then twins.ends(digest, id, outcome, life) end
    call('HSET', lock, 'state', 'cooldown', 'expires', int(now + rest))
    call('PEXPIRE', lock, int(rest))
    live_at_least(idkey, rest)
    return true
  end
  if signal == 'x' and runs then return frees('expired', all(list)) end
  if signal == 'x' then return supersedes('expired') end
  if signal == 'q' and not runs and not told then return supersedes('revoked') end
  if signal == 'p' and not runs and not is_marked(marks, 'd') then return frees('purged', all(list)) end
  return true
end

-- The same where the id's lock may be set aside.
local function signal_lock(digest, idkey, id, ...)
  local lock = lock_of(digest)
  local claims, publishes, told, grace = signal_one(lock, digest, idkey, id, ...)
  if claims ~= nil then return claims, publishes, told, grace end
  local key = hands.key_of(lock, id)
  claims, publishes, told, grace = signal_one(key, digest, idkey, id, ...)
  hands.changed(lock, key)
  return claims, publishes, told, grace
end

-- Signal: settlement, signal, worker, source. The signals: a ack, l ack of a run that began long before, r reject, d delivered without ack, s started, t retried, k succeeded,
-- f failed, v revoked, q a revoke is asked for, x expired, c crashed, o orphaned, p purged.
local verdicts = { a = 'a', l = 'a', d = 'd', s = 'd' }
function ops.S(_, idkey, a)
  local id, settlement, signal, worker, source = id_in(idkey), ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local unjudged, unheard = false, source == 'O' and '' or source
  local verdict = verdicts[signal] or 'r'
  local record = call('GET', idkey)
  -- Mostly it lists one key, which the id goes on to claim.
  local claims, publishes, told, grace
  local alone = record and string.byte(record, 2) ~= 43 and not string.find(record, '\n', 2, true)
  if alone then
    claims, publishes, told, grace = signal_lock(string.sub(record, 2, 65), idkey, id, settlement, signal, worker, source)
    if claims and not publishes and not told and not grace then return {} end
  end
  local out, ends = {}, nil
  local kept, entries, shortest = {}, 0, nil
  if record and string.find(record, '\n+', 1, true) then
    kept, entries, shortest = runs.signal(record, idkey, id, settlement, signal, worker, source, out)
  end
  if not record or not string.find(record, '\n%x') then
    -- Of an id that is not known, all but its end is somebody else's business.
    if signal ~= 't' and signal ~= 's' and signal ~= 'q' and signal ~= 'o' then note_ended(id, verdict, unheard, UNJUDGED, UNKNOWN_KEPT) end
    if not record then return out end
  end
  for entry, digest in string.gmatch(record, '(\n(%x+)[^\n]*)') do
    if not alone then
      claims, publishes, told, grace = signal_lock(digest, idkey, id, settlement, signal, worker, source)
    end
    entries = entries + 1
    if claims then kept[#kept + 1] = entry end
    if told == 'ran' then told = freed(digest, 'ran', id, string.match(entry, '^\n%x+ %S+ (.*)$')) end
    if told then out[#out + 1] = told end
    shortest = grace or shortest
    if publishes == UNJUDGED then
      unjudged = true
    elseif publishes then
      ends = ends or {}
      if #publishes == 0 then publishes = { '*' } end
      for _, nonce in ipairs(publishes) do ends[#ends + 1] = nonce end
    end
  end
  if #kept == 0 then
    call('DEL', idkey)
  elseif #kept < entries then
    call('SET', idkey, table.concat(kept), 'KEEPTTL')
  end
  -- Who waits for its result, see `join.lua`, waits no longer than it must.
  if #out > 0 then
    for _, member in ipairs(call('SMEMBERS', prefix .. ':awaited:' .. id)) do call('ZADD', prefix .. ':joining', 'XX', now_text, member) end
  end
  -- The record ends with the only lock it lists.
  if #kept == 1 and entries == 1 and shortest then call('PEXPIRE', idkey, int(shortest)) end
  if signal == 't' then return out end
  if unjudged then note_ended(id, verdict, unheard, UNJUDGED, ENDED_KEPT) end
  if ends then
    if string.find(table.concat(ends, ' '), '*', 1, true) then ends = { '*' } end
    note_ended(id, verdict, '', ends, ENDED_KEPT)
  end
  return out
end

end

function make.delivery()

-- The id holds the lock, and a worker is to have its message.
local function reaches(lock, idkey, note, nonce, worker, l)
  local publishes, life = l[4] or '', note.queued
  if not string.find(publishes, '^%x+%*?%+?$') then
    local list = parse(publishes)
    if in_flight(list) == 0 then
      push(list, nonce, '+', '*')
      publishes = format(list)
    end
  end
  local left = (tonumber(l[3]) or now) - now
  local state, longest = l[2] == 'leased' and 'queued' or l[2], math.max(life, left)
  local record = record_for(idkey, lock, note, l[6], is_marked(l[5], 't'), longest)
  -- A field more or less costs little, a call costs much.
  if worker == '' then
    call('HSET', lock, 'state', state, 'expires', int(now + longest), 'publishes', publishes, 'marks', 'dc', 'record', int(record))
  else
    call('HSET', lock, 'state', state, 'expires', int(now + longest), 'publishes', publishes, 'marks', 'dc', 'record', int(record),
      'worker', worker)
  end
  if life > left then call('PEXPIRE', lock, int(life)) end
  if note.quiet and worker ~= '' then call('HSET', lock, 'handed', now_text) end
end

local function retake(lock, idkey, digest, id, state, publishes, life, note, worker)
  take(lock, id, state, publishes, life, note, now + life, 'dc')
  if worker ~= '' then call('HSET', lock, 'worker', worker) end
  note_id(idkey, entry_of(digest, note), life)
end

-- Admission: delivery, reentrant (as at an acquire; v for w where a message without a holder passes), note, worker. 0: the id holds the key that was asked about; else what, of which key.
function ops.M(lock, idkey, a)
  local id, nonce, note, worker = id_in(idkey), ARGV[a], notes[ARGV[a + 2]], ARGV[a + 3]
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes', 'marks', 'record', 'aside')
  -- Mostly the id holds the key, so that its record lists it.
  if l[1] == id and l[2] ~= 'cooldown' and note.ends ~= 'n' then
    if l[7] then hands.supersede(lock) end
    reaches(lock, idkey, note, nonce, worker, l)
    return 0
  end
  local digest, record = digest_of(lock), call('GET', idkey)
  local asked, may_wait = digest, ARGV[a + 1] == 'w' or ARGV[a + 1] == 'v'
  if may_wait and not is_dead(digest, id) then
    local waits = twins.admit(lock, digest, id, l[1], l[2], l[3], l[7])
    if waits then return waits end
  end
  local known = record and lists(record, digest)
  local runs_it = record and not known and runs.find(record, digest)
  if record and not known and not runs_it then
    -- The key that the id has claimed goes before the one that the present rules compute.
    local rule = string.match(note.tail, '^ %S+ (.*)$')
    for other, scope, name in string.gmatch(record, '\n(%x+) (%S+) ([^\n]*)') do
      if name == rule then
        digest, known = other, true
        break
      end
    end
    if not known then
      digest = runs.of_rule(record, rule)
      if not digest then return { 'p', asked } end
      runs_it = true
    end
    lock = lock_of(digest)
    l = call('HMGET', lock, 'holder', 'state', 'expires', 'publishes', 'marks', 'record', 'aside')
  end
  local holder = l[1]
  if holder and holder ~= id and has_lapsed(l[2], l[3]) then
    hands.lapses(lock)
    return ops.M(lock_of(asked), idkey, a)
  end
  -- What is dead holds nothing: it has lost its lock by that.
  if (holder ~= id or l[2] == 'cooldown') and is_dead(digest, id) then
    local newer = note.hides and replaced_by(digest, id)
    if newer then return { 'o', digest, newer } end
    return { 'x', digest }
  end
  if note.ends == 'n' then return { 'p', digest } end
  if not holder and note.keeps and lasts.follows(lock) then return ops.M(lock_of(asked), idkey, a) end
  if not holder then
    retake(lock, idkey, digest, id, 'queued', nonce .. '*+', note.queued, note, worker)
    if known then twins.again(lock, digest, id) end
    return digest == asked and 0 or { 'h', digest }
  end
  if holder == id then
    if l[2] == 'cooldown' then return { 'p', digest } end
    if l[7] then hands.supersede(lock) end
    reaches(lock, idkey, note, nonce, worker, l)
    return digest == asked and 0 or { 'h', digest }
  end
  local key = l[7] and hands.key_of(lock, id)
  if key and is_last(key) then return lasts.waits(lock, idkey, note, nonce, holder, reaches) end
  if key then return { 'l', digest, holder } end
  if note.keeps then return lasts.admit(lock, idkey, note, nonce, holder, ARGV[a + 1] == '1' or known or runs_it) end
  if ARGV[a + 1] == '1' or ARGV[a + 1] == 'v' or known or runs_it then return { 'p', digest } end
  if l[2] == 'leased' then return { 'l', digest, holder } end
  if string.byte(ARGV[a + 1]) == 106 then joins.add(digest, holder, id, note.tail, note.life, string.sub(ARGV[a + 1], 2)) end
  if may_wait then twins.add(lock, holder, id, note.life, l[2], l[5]) end
  return { 'd', digest, holder, l[2], math.max(0, (tonumber(l[3]) or now) - now) }
end

-- What a renewal is told of a holder that has ended. Who has not heard of the end by now renews again.
local function gone(digest, id, note)
  live_at_least(ended_of(id), math.max(ENDED_KEPT, note.life))
  return was_replaced(digest, id) and 3 or 2
end

-- Renewal: delivery, how it is alive (d delivered, b begun, a acknowledged), note, worker. 0: it has its full life; 1: taken again;
-- 2: there is nothing to renew; 3: it has lost its lock to a newer id.
function ops.N(lock, idkey, a)
  local id, nonce, alive, note = id_in(idkey), ARGV[a], ARGV[a + 1], notes[ARGV[a + 2]]
  local life, digest = alive == 'd' and note.queued or note.life, digest_of(lock)
  local l = call('HMGET', lock, 'holder', 'state', 'expires', 'marks', 'aside')
  if not l[1] and note.keeps and lasts.follows(lock) then return ops.N(lock, idkey, a) end
  if l[1] then
    local key = l[5] and l[1] ~= id and hands.key_of(lock, id)
    if key then return hands.ask(ops.N, lock, key, idkey, a) end
    if l[1] ~= id or l[2] == 'cooldown' or is_marked(l[4], 't') then return gone(digest, id, note) end
    prolong(lock, l[3], life)
    if l[5] then hands.aside_changed(lock) end
    note_id(idkey, entry_of(digest, note), math.max(life, (tonumber(l[3]) or now) - now))
    return 0
  end
  if ended(digest, id, nil, note.ends) then return gone(digest, id, note) end
  local list = alive == 'a' and nonce .. '*-' .. nonce or nonce .. '*+'
  retake(lock, idkey, digest, id, alive == 'd' and 'queued' or 'running', list, life, note, ARGV[a + 3])
  return 1
end

end

-- Release of the publish lock by an operator; the arguments of `ops.D`.
local function release_lock(lock, a)
  local l = call('HMGET', lock, 'holder', 'rule', 'task', 'since', 'shadow', 'state', 'marks', 'expires', 'aside', 'vhost')
  if l[1] and has_lapsed(l[6], l[8]) then
    hands.lapses(lock)
    return release_lock(lock, a)
  end
  if not l[1] and lasts.follows(lock) then return release_lock(lock, a) end
  if not l[1] or (ARGV[a] == '1' and l[1] ~= ARGV[a + 1]) then return {} end
  if l[6] == 'running' and ARGV[a + 2] ~= '1' then return {} end
  -- A worker has it and may go on: no renewal is to bring back what was freed.
  if is_marked(l[7], 'd') then note_ended(l[1], 'r', '', { '*' }, math.max(ENDED_KEPT, call('PTTL', lock))) end
  if l[9] and call('DEL', hands.aside_of(lock)) == 1 then forget_id(id_of(l[9]), digest_of(lock)) end
  if not l[9] or not hands.gives_back(lock) then call('DEL', lock) end
  forget_id(id_of(l[1]), digest_of(lock))
  return { freed(digest_of(lock), 'admin', l[1], l[2], l[3], l[4], l[5], l[10]) }
end

function make.operator()

-- Lock by hand: cooldown, note. 0: locked; else who holds the key.
function ops.W(lock, idkey, a)
  local life = tonumber(ARGV[a])
  local l = call('HMGET', lock, 'holder', 'state', 'expires')
  if l[1] and has_lapsed(l[2], l[3]) then
    hands.lapses(lock)
    return ops.W(lock, idkey, a)
  end
  if not l[1] and lasts.follows(lock) then return ops.W(lock, idkey, a) end
  if not l[1] then
    take(lock, id_in(idkey), 'cooldown', '0-0', life, notes[ARGV[a + 1]], 0)
  elseif l[2] == 'cooldown' then
    call('HSET', lock, 'expires', int(now + life))
    call('PEXPIRE', lock, int(life))
  else
    return { l[1] }
  end
  return 0
end

-- Show.
function ops.Q(lock)
  local l = call('HMGET', lock, 'holder', 'state', 'rule', 'task', 'summary', 'worker', 'proxy', 'vhost', 'queue', 'since', 'expires',
    'scope', 'shadow', 'publishes', 'carried', 'marks')
  if has_lapsed(l[2], l[11]) then
    hands.lapses(lock)
    return ops.Q(lock)
  end
  if not l[1] and lasts.follows(lock) then return ops.Q(lock) end
  return l
end

end

local arguments = { A = 3, C = 2, R = 2, U = 2, S = 4, M = 4, N = 4, W = 2, D = 3, Q = 0 }
